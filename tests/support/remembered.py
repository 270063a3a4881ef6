"""What forks of this process need not do again."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache


@cache
def remember_insertion() -> None:
    """Load here, once, what every fork would load, and remember what is inserted into a file: most of a fork's time."""
    import quantctl.runs.execution
    import quantctl.tree.edit.insert  # noqa: F401
    from quantctl.errors import QuantctlError
    from quantctl.patches.patch import Patch
    from quantctl.tree import state

    real = state._insert
    known: dict[tuple[object, ...], tuple[bytes, dict[str, QuantctlError]]] = {}

    def insert(patches: Sequence[Patch], raw: bytes, unfit: dict[str, QuantctlError]) -> bytes:
        if unfit:  # what is said of them belongs to this tree
            return real(patches, raw, unfit)
        key = (raw, *(patch.name for patch in patches))
        if key not in known:
            found: dict[str, QuantctlError] = {}
            known[key] = real(patches, raw, found), found
        after, found = known[key]
        unfit |= found
        return after

    state._insert = insert
    gc.freeze()
