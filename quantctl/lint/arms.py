"""`case`: which of its items can be taken, and what each then knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantctl.lint import patterns
from quantctl.lint.conditions import label, matches, variable_of
from quantctl.lint.words import Expander, source
from quantctl.lint.world import UNKNOWN, World, known

if TYPE_CHECKING:
    from tree_sitter import Node


def arms(node: Node, world: World) -> list[tuple[Node | None, World]]:
    """The items of a `case` that can be taken, each with a world that knows its word; None: no item matches."""
    word = node.child_by_field_name("value")
    expander = Expander(world)
    value, name = expander.text(word), variable_of(word)
    candidates = world.soft.get(name) if name else None
    found: list[tuple[Node | None, World]] = []
    matched = unsure = False
    for item in (child for child in node.children if child.type == "case_item"):
        wishes = [_pattern(source(pattern), world) for pattern in item.children_by_field_name("value")]
        literal = frozenset("".join(map(str, items)) for items in wishes if items is not None and _is_literal(items))
        hit = known(value) and any(items is not None and matches(items, value, world) for items in wishes)
        unsure = unsure or (not matched and known(value) and not hit and None in wishes)
        if hit and not matched:
            matched = True
            taken = world.copy()
            if name in taken.soft:
                taken.soft[name] = literal or None
            found.insert(0, (item, taken))
        elif not known(value) or None in wishes or (expander.soft and not (hit and matched)):
            possible = literal if candidates is None else literal & candidates
            if candidates is not None and not possible:
                continue
            shown = [source(pattern) for pattern in item.children_by_field_name("value")]
            found.append((item, _other(world, name, label(source(node.children[1])), shown, possible, value)))
    if not matched and (not known(value) or unsure or not found):
        found.append((None, world.copy()))
    return found


def _pattern(text: str, world: World) -> list[patterns.Item] | None:
    try:
        return Expander(world).pattern(text)
    except patterns.NoPattern:
        return None


def _is_literal(items: list[patterns.Item]) -> bool:
    return all(isinstance(item, str) for item in items)


def _other(world: World, name: str | None, what: str, patterns: list[str], possible: frozenset[str], old: str) -> World:
    """The world of an item that is not the default's."""
    after = world.copy()
    one = next(iter(possible)) if len(possible) == 1 else None
    says = f"{name or what}={one or '|'.join(patterns)}"
    if known(old):
        after.assumed += (says,)
    else:
        after.branches += (says,)
    if name is not None:
        after.assign(name, one or UNKNOWN)
    return after
