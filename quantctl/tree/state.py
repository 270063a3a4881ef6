"""What a tree says now, and what its files would be after a change: reading and planning, no writing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.patches.patch import Patch
from quantctl.patches.registry import PATCHES
from quantctl.tree import elsewhere, fit
from quantctl.tree.elsewhere import Replacement
from quantctl.tree.forks import PREFIX, ForkSelector, Survey
from quantctl.tree.selectors import MARKS, OURS, SELECTORS, Located, fork_of, locate, rewrite, rewrite_places
from quantctl.tree.source import Source, source_of

FILES = tuple(dict.fromkeys(patch.file for patch in PATCHES))
"""The files that quantctl reads and writes; those that only optional patches want may be absent from a tree."""

_HOMES = tuple(dict.fromkeys(selector.file for selector in SELECTORS.values()))
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
    """By file, those of FILES that the tree has, and what other files hold selectors of a fork."""
    selectors: dict[str, Located]
    """By role; a role that is absent is not patched in."""
    patches: dict[str, PatchState]
    """By name. Found without a syntax tree, so an available patch may turn out not to fit: `misfits` says."""
    forks: dict[str, Survey]
    """By file, where a fork brings selectors along; such a file is never patched."""
    elsewhere: dict[str, Survey] = field(default_factory=dict)
    """By file, a fork's selectors in files in which quantctl has none; they decide beside those of `selectors`."""
    suspects: dict[str, bytes] = field(default_factory=dict)
    """Files outside Megatron-core that mention what patches change."""
    root: Path = Path()

    def values(self) -> dict[str, str]:
        """Role to value of the selectors that exist; of several places in other files, the first that is not none."""
        found = {role: place.value for role, place in self.selectors.items()}
        others = [(role, place.literal.value) for place in self.places for role in place.roles if role not in found]
        return dict(sorted(others, key=lambda other: not fit.asks(*other))) | found

    def words(self, role: str) -> set[str]:
        """What the branches of a fork's selectors for `role` ask for."""
        own = self.selectors[role].fork if role in self.selectors else ()
        places = [*own, *(place for place in self.places if role in place.roles)]
        return {word for place in places for word in place.formats}

    def applied(self) -> list[Patch]:
        """The patches that the tree holds."""
        return [patch for patch in PATCHES if self.patches[patch.name] is PatchState.APPLIED]

    def outdated(self) -> list[Patch]:
        """The patches that the tree holds in an earlier edition, whose products do not know their modules."""
        return [patch for patch in self.applied() if patch.edition not in self.sources[patch.file].raw]

    @property
    def places(self) -> list[ForkSelector]:
        """The fork's selectors in other files."""
        return [place for survey in self.elsewhere.values() for place in survey.selectors]

    def of_fork(self) -> list[str]:
        """Roles whose products are the fork's, so that quantctl's counts say nothing about them."""
        own = {role for role, place in self.selectors.items() if place.fork}
        return sorted(own | {role for place in self.places for role in place.roles if role not in self.selectors})

    @cached_property
    def replaced(self) -> list[Replacement]:
        """What patches change and programs of the tree replace at run time."""
        return elsewhere.replacements(self.suspects, fit.TARGETS)

    def reader(self, after: Mapping[str, bytes]) -> fit.Reader:
        """From a file to its bytes, as they would be with `after` written."""

        def read(file: str) -> bytes | None:
            if file in after:
                return after[file]
            return self.sources[file].raw if file in self.sources else _read(self.root, file)

        return read

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


def read_state(root: Path, instead: Mapping[str, bytes] | None = None) -> TreeState:
    """Read the files of the tree at `root`, some as they would be with the bytes of `instead`.

    Raises QuantctlError when a required one is missing, or one unreadable.
    """
    content = {file: _read(root, file) for file in FILES} | dict(instead or {})
    sources = {file: source_of(raw, file) for file, raw in content.items() if raw is not None}
    selectors: dict[str, Located] = {}
    for source in sources.values():
        selectors |= locate(source)
    forks = {file: found for file, source in sources.items() if (found := fork_of(source))}
    others: dict[str, Survey] = {}
    suspects: dict[str, bytes] = {}
    for file, raw in elsewhere.read_all(root):
        if PREFIX.encode() in raw and file not in _HOMES:
            source = sources.get(file) or source_of(raw, file)
            if found := elsewhere.selectors_in(source, OURS):
                sources[file], others[file] = source, found
        if not file.startswith("megatron/core/") and elsewhere.suspicious(raw):
            suspects[file] = raw
    decided = {role for found in others.values() for place in found.selectors for role in place.roles}
    patches = {
        patch.name: PatchState.LEFT_TO_FORK
        if _left_to_fork(patch, forks, decided)
        else _patch_state(patch, content[patch.file], root)
        for patch in PATCHES
    }
    return TreeState(sources, selectors, patches, forks, others, suspects, root)


def _left_to_fork(patch: Patch, forks: Mapping[str, Survey], decided: set[str]) -> bool:
    """Its file is a fork's, or it serves a selector of such a file, or every selector is the fork's.

    Attention that a fork decides elsewhere (`decided`) is one computation, of which quantctl's selectors are another;
    linear layers are many, of which a fork may decide some.
    """
    homes = {patch.file, *(other.file for other in PATCHES if other.roles and other.name in patch.together)}
    if any(SELECTORS[role].file in homes for role in decided & {"qk", "pv"}):
        return True
    return not forks.keys().isdisjoint(homes) or forks.keys() >= {s.file for s in SELECTORS.values()}


def _insert_available(state: TreeState, accept: Collection[str]) -> tuple[dict[str, bytes], dict[str, QuantctlError]]:
    """All files with the available patches in, and by name why those that do not fit were left out."""
    unfit = {
        patch.name: error
        for patch in state.available()
        if (error := fit.replaced(patch, state.replaced, accept)) is not None
    }
    while True:
        known = len(unfit)
        after = {file: source.raw for file, source in state.sources.items()}
        for file in dict.fromkeys(patch.file for patch in state.available()):
            after[file] = _insert([patch for patch in state.available() if patch.file == file], after[file], unfit)
        if len(unfit) == known or not any(unfit.keys() & set(patch.together) for patch in state.available()):
            return after, unfit


def _insert(patches: Sequence[Patch], raw: bytes, unfit: dict[str, QuantctlError]) -> bytes:
    """The file of these patches with those in that fit; why others do not is added to `unfit`."""
    from quantctl.tree.edit.insert import Draft

    draft = Draft(raw, patches[0].file)
    wanted = [patch for patch in patches if patch.name not in unfit]
    for patch in wanted:
        missing = next((name for name in patch.together if name in unfit), None)
        try:
            if missing is not None:
                raise unfit[missing]
            draft.add(patch.edits, patch.header)
        except QuantctlError as error:
            unfit[patch.name] = error
    try:
        return draft.result()
    except QuantctlError as error:  # together they are no Python
        unfit |= {patch.name: unfit.get(patch.name, error) for patch in wanted}
        return raw


def misfits(state: TreeState, accept: Collection[str] = ()) -> dict[str, QuantctlError]:
    """Why each available patch that does not fit cannot be inserted, by name."""
    return _insert_available(state, accept)[1]


def plan(state: TreeState, values: Mapping[str, str], accept: Collection[str] = ()) -> dict[str, bytes]:
    """The files as they would be with all patches in and the selectors of `values` set; only those that change.

    A stock tree's selectors start as none and unfused. A patch that does not fit is left out, and AnchorError raised
    where `values` asks something of a selector that it brings, or where no selector is left. `accept`: functions
    (`Class.method`, `Class`) that may bypass the selectors.
    """
    after, unfit = _insert_available(state, accept)
    asked = {role for role, value in values.items() if fit.asks(role, value)}
    _refuse_misfits(state, asked if values else None, unfit)
    fit.refuse_unnamed(values, state.outdated(), unfit)
    fit.refuse_replaced(asked, state.applied(), state.replaced, accept)
    for file in _HOMES:
        after[file] = rewrite(source_of(after[file], file), dict(values))
    for file, survey in state.elsewhere.items():
        after[file] = rewrite_places(source_of(after[file], file), survey, values)
    found = {role for file in _HOMES for role in locate(source_of(after[file], file))}
    found |= {role for place in state.places for role in place.roles}
    _refuse_what_forks_lack(state, values, found)
    left_out = {role for patch in PATCHES if patch.name in unfit for role in patch.roles}
    left_out |= {"attention"} if {"qk", "pv"} & {role for place in state.places for role in place.roles} else set()
    absent = [role for role in values if role not in found | left_out and SELECTORS[role].file not in state.forks]
    if absent:
        names = ", ".join(SELECTORS[role].variable for role in absent)
        raise QuantctlError(
            f"the tree mentions {names} but does not assign it at the top level of its file",
            "take the remains of an earlier patch out of the file (git diff shows them), then run the command again",
        )
    fit.refuse_bypassed(asked, fit.bypasses(state.sources, state.elsewhere, after), accept)
    if values.get("attention") == "fused":
        fit.refuse_strange(state.reader(after))
    return {file: raw for file, raw in after.items() if raw != state.sources[file].raw}


def _refuse_misfits(state: TreeState, asked: set[str] | None, unfit: Mapping[str, QuantctlError]) -> None:
    """Raise where a patch does not fit that brings what is `asked`; None: all that a stock tree can have."""
    bringing = [patch for patch in state.available() if patch.roles]
    nothing_left = all(patch.name in unfit for patch in bringing)
    if not any(patch.roles for patch in state.applied()):
        nothing_left |= asked is None
    for patch in bringing:
        if patch.name in unfit and (nothing_left or set(patch.roles) & (asked or set())):
            raise unfit[patch.name]


def _refuse_what_forks_lack(state: TreeState, values: Mapping[str, str], found: set[str]) -> None:
    """A fork's file has the selectors that it has; what asks for nothing of another one passes beside those."""
    for file in state.forks:
        asked = [role for role in values if SELECTORS[role].file == file]
        lacking = [role for role in asked if role not in found]
        if lacking == asked or any(fit.asks(role, values[role]) for role in lacking):
            for role in lacking:
                there = ", ".join(role for role in found if SELECTORS[role].file == file) or "none"
                raise QuantctlError(
                    f"{file} has a fork's own selectors (for {there}), and none for {role}",
                    f"leave {role} out; or take the fork's code out of the file, then quantctl patches it",
                )
    if places := [place for place in state.places if "qk" in place.roles or "pv" in place.roles]:
        decided = {role for place in places for role in place.roles} | state.selectors.keys()
        for role, value in values.items():
            if role in ("qk", "pv", "attention") and role not in decided and fit.asks(role, value):
                raise QuantctlError(
                    f"a fork's own selector decides attention at {places[0].where}, and there is none for {role}",
                    f"leave {role} out; or take the fork's code out of the file, then quantctl patches the tree",
                )


def values_after(state: TreeState, values: Mapping[str, str]) -> dict[str, str]:
    """What every selector says once `plan(state, values)` is written."""
    brought = {role for patch in state.available() for role in patch.roles}
    ours = {role: selector.default for role, selector in SELECTORS.items() if role in brought}
    there = ours.keys() | state.values().keys()
    return ours | state.values() | {role: value for role, value in values.items() if role in there}


def is_untouched(file: str, raw: bytes) -> bool:
    """Whether a file holds nothing of quantctl's and no selector of a fork: then its bytes are its owner's alone."""
    return not any(mark in raw for mark in MARKS) and not any(p.mark in raw for p in PATCHES if p.file == file)


def holds_patches(file: str, raw: bytes) -> bool:
    """Whether a file holds code that quantctl inserted; a fork's own selectors are none."""
    return any(p.mark in raw for p in PATCHES if p.file == file) and not fork_of(source_of(raw, file))
