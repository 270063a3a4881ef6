"""Where the program lies that a script or a command starts: a repository with a parser of its own, or not."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from quantctl.lint import own_flags
from quantctl.lint.world import known

_HIGHEST = 6
"""Folders above a script in which its program is looked for."""
_TRAINERS = ("megatron/training/arguments.py", "megatron/core/__init__.py")


def parses_itself(program: str, beside: Path) -> bool:
    """Whether the program, found from the folder `beside` upwards, lies in a repository that declares flags in code of
    its own and holds no Megatron: what its parser takes is not known then."""
    written = program if known(program) else program.rpartition("/")[2]
    if not known(written) or written in ("", "-c"):
        return False
    for folder in [beside, *beside.parents][:_HIGHEST]:
        for file in (folder / written, folder / written.rpartition("/")[2]):
            if file.is_file():
                return _declares(file.parent)
    return False


@lru_cache(maxsize=16)
def _declares(folder: Path) -> bool:
    above = [folder, *folder.parents][:_HIGHEST]
    if any((one / trainer).is_file() for one in above for trainer in _TRAINERS):
        return False
    return own_flags.declares_any(folder)
