"""What a tree says now, and what its files would be after a change: reading and planning, no writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.patches.registry import PATCHES
from quantctl.selectors import SELECTORS, Located, locate, rewrite
from quantctl.source import Source
from quantctl.spec import NONE

FILES = tuple(dict.fromkeys(patch.file for patch in PATCHES))
"""The files of a tree that quantctl reads and writes."""


@dataclass(frozen=True)
class TreeState:
    """The present content of a tree's files."""

    sources: dict[str, Source]
    selectors: dict[str, Located]
    """By role; a role that is absent is not patched in."""
    patches: dict[str, bool]
    """By name: whether the file holds it."""

    def values(self) -> dict[str, str]:
        """Role to value of the selectors that exist."""
        return {role: place.value for role, place in self.selectors.items()}


def read_state(root: Path) -> TreeState:
    """Read the files of the tree at `root`. Raises QuantctlError when one is missing or unreadable."""
    sources = {}
    for file in FILES:
        try:
            sources[file] = Source((root / file).read_bytes(), file)
        except OSError as error:
            raise QuantctlError(
                f"cannot read {root / file}: {error.strerror}",
                "is this a whole megatron-core?",
            ) from error
    selectors: dict[str, Located] = {}
    for source in sources.values():
        selectors |= locate(source)
    return TreeState(sources, selectors, {patch.name: patch.mark in sources[patch.file].raw for patch in PATCHES})


def plan(state: TreeState, values: Mapping[str, str]) -> dict[str, bytes]:
    """The files as they would be with all patches in and the selectors of `values` set; only those that change.

    A stock tree's selectors start as none. Raises AnchorError when a patch does not fit.
    """
    after = {file: source.raw for file, source in state.sources.items()}
    missing = [patch for patch in PATCHES if not state.patches[patch.name]]
    if missing:
        from quantctl.edit.insert import insert

        for patch in missing:
            after[patch.file] = insert(after[patch.file], patch.file, patch.edits, patch.header)
    for file in {selector.file for selector in SELECTORS.values()}:
        after[file] = rewrite(Source(after[file], file), dict(values))
    found = {role for file, raw in after.items() for role in locate(Source(raw, file))}
    if absent := [role for role in values if role not in found]:
        names = ", ".join(SELECTORS[role].variable for role in absent)
        raise QuantctlError(
            f"the tree mentions {names} but does not assign it at the top level of its file",
            "take the remains of an earlier patch out of the file (git diff shows them), then run the command again",
        )
    return {file: raw for file, raw in after.items() if raw != state.sources[file].raw}


def values_after(state: TreeState, values: Mapping[str, str]) -> dict[str, str]:
    """What every selector says once `plan(state, values)` is written."""
    return dict.fromkeys(SELECTORS, NONE) | state.values() | dict(values)
