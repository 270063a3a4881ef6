"""What a tree says now, and what its files would be after a change: reading and planning, no writing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.forks import Survey
from quantctl.patches.patch import Patch
from quantctl.patches.registry import PATCHES
from quantctl.selectors import MARKS, SELECTORS, Located, fork_of, locate, rewrite
from quantctl.source import Source

FILES = tuple(dict.fromkeys(patch.file for patch in PATCHES))
"""The files that quantctl reads and writes; those that only optional patches want may be absent from a tree."""

_REQUIRED = {patch.file for patch in PATCHES if patch.required}


class PatchState(Enum):
    """What a patch is to a tree."""

    APPLIED = "applied"
    AVAILABLE = "available"
    NOT_NEEDED = "not needed"
    NOT_APPLICABLE = "not applicable"
    DOES_NOT_FIT = "does not fit"
    LEFT_TO_FORK = "left to the fork's own selectors"


@dataclass(frozen=True)
class TreeState:
    """The present content of a tree's files."""

    sources: dict[str, Source]
    """By file, those of FILES that the tree has."""
    selectors: dict[str, Located]
    """By role; a role that is absent is not patched in."""
    patches: dict[str, PatchState]
    """By name. Found without a syntax tree, so an available patch may turn out not to fit: `misfits` says."""
    forks: dict[str, Survey]
    """By file, where a fork brings selectors along; such a file is never patched."""

    def values(self) -> dict[str, str]:
        """Role to value of the selectors that exist."""
        return {role: place.value for role, place in self.selectors.items()}

    def available(self) -> list[Patch]:
        """The patches that the tree needs and does not hold, in the order they are applied."""
        return [patch for patch in PATCHES if self.patches[patch.name] is PatchState.AVAILABLE]


def _read(root: Path, file: str) -> bytes | None:
    try:
        return (root / file).read_bytes()
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and file not in _REQUIRED:
            return None
        raise QuantctlError(f"cannot read {root / file}: {error.strerror}", "is this a whole megatron-core?") from error


def _patch_state(patch: Patch, raw: bytes | None, root: Path) -> PatchState:
    if raw is None:
        return PatchState.NOT_APPLICABLE
    if patch.mark in raw:
        return PatchState.APPLIED
    if not re.search(patch.needed, raw.replace(b"\r\n", b"\n"), re.MULTILINE):
        return PatchState.NOT_NEEDED
    if patch.requires is not None:
        file, text = patch.requires
        if text not in (_read(root, file) or b""):
            return PatchState.NOT_APPLICABLE
    return PatchState.AVAILABLE


def read_state(root: Path) -> TreeState:
    """Read the files of the tree at `root`. Raises QuantctlError when a required one is missing, or one unreadable."""
    content = {file: _read(root, file) for file in FILES}
    sources = {file: Source(raw, file) for file, raw in content.items() if raw is not None}
    selectors: dict[str, Located] = {}
    for source in sources.values():
        selectors |= locate(source)
    forks = {file: found for file, source in sources.items() if (found := fork_of(source))}
    patches = {
        patch.name: PatchState.LEFT_TO_FORK
        if _left_to_fork(patch, forks)
        else _patch_state(patch, content[patch.file], root)
        for patch in PATCHES
    }
    return TreeState(sources, selectors, patches, forks)


def _left_to_fork(patch: Patch, forks: Mapping[str, Survey]) -> bool:
    """Its file is a fork's, or it serves a selector of such a file, or every selector is the fork's."""
    served = SELECTORS[patch.name].file if patch.name in SELECTORS else patch.file
    return not forks.keys().isdisjoint((patch.file, served)) or forks.keys() >= {s.file for s in SELECTORS.values()}


def _insert_available(state: TreeState) -> tuple[dict[str, bytes], dict[str, QuantctlError]]:
    """All files with the available patches in, and by name why those that do not fit were left out."""
    after = {file: source.raw for file, source in state.sources.items()}
    misfits: dict[str, QuantctlError] = {}
    if available := state.available():
        from quantctl.edit.insert import insert

        for patch in available:
            try:
                after[patch.file] = insert(after[patch.file], patch.file, patch.edits, patch.header)
            except QuantctlError as error:
                misfits[patch.name] = error
    return after, misfits


def misfits(state: TreeState) -> dict[str, QuantctlError]:
    """Why each available patch that does not fit cannot be inserted, by name."""
    return _insert_available(state)[1]


def plan(state: TreeState, values: Mapping[str, str]) -> dict[str, bytes]:
    """The files as they would be with all patches in and the selectors of `values` set; only those that change.

    A stock tree's selectors start as none and unfused. Raises AnchorError when a required patch does not fit; another
    patch that does not fit is left out.
    """
    after, unfit = _insert_available(state)
    for patch in PATCHES:
        if patch.required and patch.name in unfit:
            raise unfit[patch.name]
    for file in {selector.file for selector in SELECTORS.values()}:
        after[file] = rewrite(Source(after[file], file), dict(values))
    found = {role for file, raw in after.items() for role in locate(Source(raw, file))}
    _refuse_what_forks_lack(state, values, found)
    if absent := [role for role in values if role not in found and SELECTORS[role].file not in state.forks]:
        names = ", ".join(SELECTORS[role].variable for role in absent)
        raise QuantctlError(
            f"the tree mentions {names} but does not assign it at the top level of its file",
            "take the remains of an earlier patch out of the file (git diff shows them), then run the command again",
        )
    return {file: raw for file, raw in after.items() if raw != state.sources[file].raw}


def _refuse_what_forks_lack(state: TreeState, values: Mapping[str, str], found: set[str]) -> None:
    """A fork's file has the selectors that it has; what asks for nothing of another one passes beside those."""
    for file in state.forks:
        asked = [role for role in values if SELECTORS[role].file == file]
        lacking = [role for role in asked if role not in found]
        if lacking == asked or any(values[role] not in SELECTORS[role].indifferent for role in lacking):
            for role in lacking:
                there = ", ".join(role for role in found if SELECTORS[role].file == file) or "none"
                raise QuantctlError(
                    f"{file} has a fork's own selectors (for {there}), and none for {role}",
                    f"leave {role} out; or take the fork's code out of the file, then quantctl patches it",
                )


def values_after(state: TreeState, values: Mapping[str, str]) -> dict[str, str]:
    """What every selector says once `plan(state, values)` is written."""
    ours = {role: selector.default for role, selector in SELECTORS.items() if selector.file not in state.forks}
    there = ours.keys() | state.selectors.keys()
    return ours | state.values() | {role: value for role, value in values.items() if role in there}


def is_untouched(file: str, raw: bytes) -> bool:
    """Whether a file holds nothing of quantctl's and no selector of a fork: then its bytes are its owner's alone."""
    return not any(mark in raw for mark in MARKS) and not any(p.mark in raw for p in PATCHES if p.file == file)


def holds_patches(file: str, raw: bytes) -> bool:
    """Whether a file holds code that quantctl inserted; a fork's own selectors are none."""
    return any(p.mark in raw for p in PATCHES if p.file == file) and not fork_of(Source(raw, file))
