"""What keeps the selectors of a tree from ruling its products, in words."""

from __future__ import annotations

from collections.abc import Collection

from quantctl.tree import fit
from quantctl.tree.state import TreeState


def problems(state: TreeState, accept: Collection[str]) -> list[str]:
    """What keeps the selectors of a tree from ruling its products, in words."""
    asked = {role for role, value in state.values().items() if fit.asks(role, value)}
    found = [
        f"{place} computes products that no selector decides; --accept-bypass {fit.short(place)} if that is meant"
        for roles, place in fit.bypasses(state.sources, state.elsewhere)
        if asked & set(roles) and not place.own and not fit.accepted(place.scope, accept)
    ]
    for patch in state.applied():
        if patch.roles and (place := fit.replacement_of(patch, state.replaced, accept)):
            found.append(f"{place}: the selectors {', '.join(patch.roles)} are not read there")
    choice = state.selectors.get("attention")
    if choice is not None and choice.value in ("fused", "auto") and (other := fit.strange_attention(state.reader({}))):
        does = "stays unfused" if choice.value == "auto" else "stops the run"
        found.append(f"attention={choice.value} {does}: {other} is no known release's own code")
    return found
