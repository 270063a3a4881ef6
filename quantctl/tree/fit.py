"""Whether what is asked of a tree takes hold in it: what programs replace, what bypasses selectors, what differs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from quantctl.errors import QuantctlError
from quantctl.patches import fused_attention, transformer_engine
from quantctl.patches.patch import Patch
from quantctl.patches.registry import PATCHES
from quantctl.spec import SITES, literal, names_of
from quantctl.stock.releases import Place, Reader, strange, undecided
from quantctl.stock.unpatch import scopes_of
from quantctl.tree.elsewhere import Replacement
from quantctl.tree.forks import Survey
from quantctl.tree.selectors import SELECTORS, fork_of
from quantctl.tree.source import Source

__all__ = ["TARGETS", "Reader"]

TARGETS = {
    scope: patch.file.removesuffix(".py").replace("/", ".")
    for patch in PATCHES
    if patch.roles or patch.together or patch.leaves_out
    for scope in sorted(scopes_of(patch))
}
"""What may not be replaced at run time where a patch changes it, and its module."""


IN_TE_LAYERS = {
    role: tuple(patch.name for patch in transformer_engine.PATCHES if home.name in patch.together)
    for home in PATCHES
    for role in home.roles
}
"""Role -> the patches by which it rules Transformer Engine's layers."""


def asks(role: str, value: str) -> bool:
    """Whether the value asks for something that a tree without the selector does not do."""
    nothing = {name for word in SELECTORS[role].indifferent for name in names_of(word)}
    return value not in nothing


def _speaks_of_modules(role: str, value: str) -> bool:
    """Whether it is a literal with a rule for layers or modules; a fork's own word is none."""
    try:
        return role in SITES and any(len(rule.phases) < len(rule.conditions) for rule in literal(value, role).rules)
    except QuantctlError:
        return False


def refuse_unnamed(values: Mapping[str, str], outdated: Iterable[Patch], unfit: Mapping[str, QuantctlError]) -> None:
    """Raise where a rule speaks of layers or modules and the tree's products do not learn which they are."""
    for role, value in values.items():
        if not _speaks_of_modules(role, value):
            continue
        for patch in outdated:
            if role in patch.roles:
                raise QuantctlError(
                    f"{role}={value} has rules, and {patch.file} was patched by a quantctl that knew none",
                    "quantctl patch brings it up to date where its history has the file's own bytes; else git does",
                )
        if "names" in unfit:
            raise unfit["names"]


def accepted(name: str, accept: Collection[str]) -> bool:
    """Whether `Class.method` or its class is among the names that a person accepted."""
    return name in accept or name.partition(".")[0] in accept


def replacement_of(patch: Patch, replaced: Iterable[Replacement], accept: Collection[str]) -> Replacement | None:
    """The first replacement of what the patch changes: the function, or its class."""
    names = scopes_of(patch)
    names |= {name.partition(".")[0] for name in names}
    return next((place for place in replaced if place.target in names and not accepted(place.target, accept)), None)


def _refusal(place: Replacement, what: str) -> QuantctlError:
    return QuantctlError(
        f"{place}: {what}",
        f"select the format there; or, if that line does not run in your training: --accept-bypass {place.target}",
    )


def replaced(patch: Patch, places: Iterable[Replacement], accept: Collection[str]) -> QuantctlError | None:
    """Why the patch would not take hold, or not be called as it is meant to be."""
    if not scopes_of(patch) <= TARGETS.keys():
        return None
    place = replacement_of(patch, places, accept)
    what = "what quantctl inserts into it would not run, or be called with arguments that it does not take"
    return None if place is None else _refusal(place, what)


def refuse_replaced(
    asked: Collection[str], applied: Sequence[Patch], places: Iterable[Replacement], accept: Collection[str]
) -> None:
    """Raise QuantctlError if a selector that is asked for something is in a function that does not run."""
    for patch in applied:
        if set(patch.roles) & set(asked) and (place := replacement_of(patch, places, accept)):
            raise _refusal(place, f"the selectors {', '.join(patch.roles)} would not be read")


def bypasses(
    sources: Mapping[str, Source], surveys: Mapping[str, Survey], after: Mapping[str, bytes] | None = None
) -> list[tuple[tuple[str, ...], Place]]:
    """Functions with matrix products in files that hold selectors, which no selector decides; and which would.

    sources: the tree's files; surveys: a fork's selectors in files of its own. With `after` the files as they would be.
    """
    found: list[tuple[tuple[str, ...], Place]] = []
    for file in dict.fromkeys(selector.file for selector in SELECTORS.values()):
        source = sources[file]
        raw = after[file] if after and file in after else source.raw
        patched = any(patch.mark in raw for patch in PATCHES if patch.file == file and patch.roles)
        fork = fork_of(source)
        if patched or fork:
            roles = tuple(role for role, selector in SELECTORS.items() if selector.file == file)
            here = undecided(source.module, file, fork.decided, patched=patched)
            found += [(roles, place) for place in here if fork or not place.own]
    for file, survey in surveys.items():
        roles = tuple({role: None for place in survey.selectors for role in place.roles})
        here = undecided(sources[file].module, file, survey.decided, patched=False)
        found += [(roles, place) for place in here if roles]
    return found


def refuse_bypassed(
    asked: Collection[str], found: Sequence[tuple[tuple[str, ...], Place]], accept: Collection[str]
) -> None:
    """Raise QuantctlError for functions that are not a release's own and compute beside what is asked for."""
    places = [p for roles, p in found if set(roles) & set(asked) and not p.own and not accepted(p.scope, accept)]
    if places:
        names = " ".join(f"--accept-bypass {name}" for name in dict.fromkeys(short(place) for place in places))
        raise QuantctlError(
            "no selector decides the matrix products of these functions, and what goes through them would stay as it "
            "is:\n" + "\n".join(f"  {place}" for place in places),
            f"give them selectors of their own; or, if that is meant: {names}",
        )


def short(place: Place) -> str:
    return place.scope.partition(".")[0]


def strange_attention(read: Reader) -> Place | None:
    """Code of the unfused flow that is no known release's own, so that no call is fused."""
    return strange(fused_attention.PATCH, read)


def refuse_strange(read: Reader) -> None:
    """Raise QuantctlError if the fused kernel would leave out code that may compute more than it does."""
    if place := strange_attention(read):
        raise QuantctlError(
            f"{place} is no known release's own code, and fused attention would leave it out",
            "quantctl set --attention auto, which stays unfused there; or unfused",
        )
