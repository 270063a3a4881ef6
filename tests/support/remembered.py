"""What forks of this process need not do again."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache

import quantctl.commands


def load_commands() -> None:
    """Every command, and what most of them load only when they are called; torch and numpy are none of it."""
    for module in pkgutil.iter_modules(quantctl.commands.__path__):
        importlib.import_module(f"quantctl.commands.{module.name}")
    for name in ("quantctl.cli", "quantctl.tree.edit.insert", "git.cmd"):
        importlib.import_module(name)


@cache
def remember_insertion() -> None:
    """Load here, once, what every fork would load, and remember what is inserted into a file: most of a fork's time."""
    load_commands()
    import quantctl.runs.execution  # noqa: F401
    from quantctl.errors import QuantctlError
    from quantctl.patches.patch import Patch
    from quantctl.tree import state

    real = state._insert
    known: dict[tuple[object, ...], tuple[bytes, dict[str, QuantctlError]]] = {}

    def insert(patches: Sequence[Patch], raw: bytes, unfit: dict[str, QuantctlError]) -> bytes:
        if unfit:  # what is said of them belongs to this tree
            return real(patches, raw, unfit)
        key = (raw, *patches)
        if key not in known:
            found: dict[str, QuantctlError] = {}
            known[key] = real(patches, raw, found), found
        after, found = known[key]
        unfit |= found
        return after

    state._insert = insert
    gc.freeze()
