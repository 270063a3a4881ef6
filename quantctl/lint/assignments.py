"""What assignments of bash do to a world: `A=b`, `A+=(...)`, `export A=b`, `unset A`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quantctl.lint.words import Expander, source
from quantctl.lint.world import MANY, UNKNOWN, World

if TYPE_CHECKING:
    from tree_sitter import Node


def assign(node: Node, world: World) -> str:
    """Carry out one assignment; the variable's name."""
    target, value = node.child_by_field_name("name"), node.child_by_field_name("value")
    if target is None:
        return ""
    if target.type == "subscript":
        name = source(target.children[0])
        world.assign_array(name, (MANY,))
        return name
    name = source(target)
    append = any(child.type == "+=" for child in node.children)
    expander = Expander(world)
    if value is not None and value.type == "array":
        world.assign_array(name, _elements(name, value, expander, append))
        return name
    text = expander.text(value)
    if append:
        old = Expander(world).value(name)
        text = (old if isinstance(old, str) else UNKNOWN) + text
    world.assign(name, text, expander.soft)
    return name


def _elements(name: str, value: Node, expander: Expander, append: bool) -> tuple[str, ...]:
    world = expander.world
    words = expander.sequence([child for child in value.children if child.is_named and child.type != "comment"])
    if value.has_error:
        words.append(MANY)
    before = world.arrays.get(name, (world.scalars[name],) if name in world.scalars else ())
    return (*before, *words) if append else tuple(words)


def declare(node: Node, world: World) -> None:
    """`export`, `local`, `declare`, `readonly`."""
    text = source(node)
    exports = text.startswith("export") or re.match(r"(declare|typeset)\s+-\w*x", text) is not None
    for child in node.children:
        name = ""
        if child.type == "variable_assignment":
            name = assign(child, world)
        elif child.type == "variable_name":
            name = source(child)
        if name and exports:
            world.exported |= {name}


def unset(node: Node, world: World) -> None:
    for child in node.children:
        if child.type in ("variable_name", "word"):
            world.assign(source(child), "")
            world.exported -= {source(child)}


def forget_assigned(node: Node, world: World) -> None:
    """Every variable that the code assigns anywhere has a value that nobody knows: what a loop leaves behind."""
    stack = [node]
    while stack and world.work.spend(1):
        here = stack.pop()
        stack += here.children
        target = here.child_by_field_name("name") if here.type == "variable_assignment" else None
        if target is None:
            continue
        name = source(target.children[0] if target.type == "subscript" else target)
        if target.type == "subscript" or here.children[-1].type == "array":
            world.assign_array(name, (MANY,))
        else:
            world.forget(name)


def local_names(body: Node) -> set[str]:
    """The variables that a function declares as its own."""
    stack, found = [body], set()
    while stack:
        here = stack.pop()
        stack += here.children
        if here.type == "declaration_command" and source(here).startswith("local"):
            for child in here.children:
                target = child.child_by_field_name("name") if child.type == "variable_assignment" else child
                if target is not None and target.type == "variable_name":
                    found.add(source(target))
    return found


def restore(name: str, before: World, after: World) -> None:
    """Give a variable the value that it had."""
    for now, then in ((after.scalars, before.scalars), (after.arrays, before.arrays)):
        now.pop(name, None)
        if name in then:
            now[name] = then[name]  # type: ignore[assignment]
    after.soft.pop(name, None)
    after.never.pop(name, None)
    if name in before.soft:
        after.soft[name] = before.soft[name]
