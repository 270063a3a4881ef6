"""Packages that only some commands need: which of them are missing, all at once, and how to get them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantctl.errors import QuantctlError

DISTRIBUTIONS = {"megatron.core": "megatron-core", "tree_sitter": "tree-sitter", "tree_sitter_bash": "tree-sitter-bash"}
"""Module -> what it is installed as, where that is another name."""
_CLONE = Path(__file__).resolve().parents[2]
_FIND = """
import importlib.util, sys
def absent(name):
    try:
        return importlib.util.find_spec(name) is None
    except (ImportError, ValueError):
        return True
print(*filter(absent, sys.argv[1:]))
"""


def is_there(module: str) -> bool:
    """Whether a module can be found; of a nested one nothing but its parents is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def absent(modules: Sequence[str], python: str | None = None) -> list[str]:
    """Those that are not there: for this Python, or for another one, which is asked."""
    if python is None or Path(python).absolute().parent == Path(sys.executable).absolute().parent:
        return [name for name in modules if not is_there(name)]
    return subprocess.run([python, "-c", _FIND, *modules], capture_output=True, text=True).stdout.split()


def lack(what: str, needed: Mapping[str, Sequence[str]], python: str | None = None) -> QuantctlError | None:
    """`needed`: extra of quantctl's -> modules of it. The error that names every one that is missing, if one is."""
    gone = absent([module for modules in needed.values() for module in modules], python)
    if not gone:
        return None
    extras = [extra for extra, modules in needed.items() if set(modules) & set(gone)]
    names = list(dict.fromkeys(DISTRIBUTIONS.get(module, module) for module in gone))
    said = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    there = f"{python} does not have" if python else "is not installed" if len(names) == 1 else "are not installed"
    message = f"{what} needs {said}, which {there}"
    return QuantctlError(message, f"{shlex.quote(python or sys.executable)} -m pip install {_install(extras, names)}")


def _install(extras: Sequence[str], names: Sequence[str]) -> str:
    """What pip is told: extras of the clone that this is, else the packages by their names."""
    if not (_CLONE / "pyproject.toml").is_file():
        return shlex.join(names)
    place = os.path.relpath(_CLONE)
    folder = str(_CLONE) if place.startswith(os.pardir) else place
    return "-e " + shlex.quote(f"{folder}[{','.join(extras)}]")


def require(what: str, needed: Mapping[str, Sequence[str]], python: str | None = None) -> None:
    """Raises QuantctlError as `lack` makes it."""
    if (error := lack(what, needed, python)) is not None:
        raise error
