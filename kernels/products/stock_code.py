"""Whether a fast path may leave out the code of the running tree: only what is a known release's own.

The files are read where the running code came from, so that a tree edited after it was patched, or patched by an
earlier quantctl, is judged as well. What a program replaced at run time is in no file, and is told by its origin.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path, PurePosixPath
from types import FunctionType
from typing import Any

import torch

from quantctl.patches.patch import Patch
from quantctl.stock.releases import strange

_said: set[str] = set()


def say_once(line: str) -> None:
    """On stderr, once a process."""
    if line not in _said:
        _said.add(line)
        print(f"quantctl: {line}", file=sys.stderr, flush=True)


_found: dict[tuple[str, Path], str | None] = {}


def why_not(patch: Patch, module: Any) -> str | None:
    """Why the code that the patch leaves out has to run, in words; None if a release's own code is all of it.

    module: the instance whose method asks.
    """
    file, scope = patch.leaves_out[0]
    name = scope.partition(".")[0]
    owner = next((base for base in type(module).__mro__ if base.__name__ == name), None)
    source = getattr(sys.modules.get(owner.__module__), "__file__", None) if owner is not None else None
    if source is None or not Path(source).as_posix().endswith(file):
        return f"{type(module).__name__} comes from no Megatron tree"
    root = Path(source).parents[len(PurePosixPath(file).parts) - 1]
    key = (patch.name, root)
    if key not in _found:
        _found[key] = _look(patch, root)
    return _found[key]


@torch.compiler.disable
def _look(patch: Patch, root: Path) -> str | None:
    def read(file: str) -> bytes | None:
        path = root / file
        return path.read_bytes() if path.is_file() else None

    place = strange(patch, read)
    if place is not None:
        return f"{place} is no known release's own code, and what it computes may be more"
    for file, scope in patch.leaves_out[1:]:
        if replaced := _replaced(file, scope):
            return f"{scope} of {file} is replaced at run time by {replaced}"
    return None


def _replaced(file: str, scope: str) -> str | None:
    """Where a function comes from, if that is not its file. A class is looked at by its forward."""
    found: Any = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    own = found.__file__
    for part in scope.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type):
        found = getattr(found, "forward", None)
    while found is not None:
        code = found.__code__ if isinstance(found, FunctionType) else None
        if code is not None and code.co_filename != own and not code.co_filename.startswith(torch.__path__[0]):
            return f"{code.co_filename}:{code.co_firstlineno}"
        found = getattr(found, "__wrapped__", None)  # torch's custom_fwd; whoever else wraps it is named
    return None
