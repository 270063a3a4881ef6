"""Packages that only some commands need: which of them are missing, all at once, and how to get them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantctl.errors import QuantctlError

DISTRIBUTIONS = {"megatron.core": "megatron-core", "zstandard": "zstandard", "tree_sitter_bash": "tree-sitter-bash"}
"""Module -> what it is installed as, where that is another name."""
_CLONE = Path(__file__).resolve().parents[2]


def is_there(module: str) -> bool:
    """Whether a module can be found; of a nested one nothing but its parents is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def install(extras: Sequence[str], modules: Sequence[str]) -> str:
    """The command that brings extras of quantctl: from the clone that this is, else the packages by their names."""
    python = shlex.quote(sys.executable)
    if (_CLONE / "pyproject.toml").is_file():
        where = os.path.relpath(_CLONE)
        where = where if where == "." or not where.startswith("..") else str(_CLONE)
        return f"{python} -m pip install -e {shlex.quote(f'{where}[' + ','.join(extras) + ']')}"
    names = [DISTRIBUTIONS.get(module, module) for module in modules]
    return f"{python} -m pip install {shlex.join(names)}"


def missing(needed: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Of extra -> modules, what is not there."""
    found = {extra: [name for name in modules if not is_there(name)] for extra, modules in needed.items()}
    return {extra: names for extra, names in found.items() if names}


def require(what: str, needed: Mapping[str, Sequence[str]]) -> None:
    """`needed`: extra -> modules of it. Raises QuantctlError that names every one that is missing, and the command."""
    if lacking := missing(needed):
        raise lack(what, lacking)


def lack(what: str, lacking: Mapping[str, Sequence[str]]) -> QuantctlError:
    """The error for modules that are missing."""
    modules = list(dict.fromkeys(module for modules in lacking.values() for module in modules))
    names = [DISTRIBUTIONS.get(module, module) for module in modules]
    said = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    verb = "is" if len(names) == 1 else "are"
    return QuantctlError(f"{what} needs {said}, which {verb} not installed", install(list(lacking), modules))
