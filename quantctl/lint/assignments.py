"""What assignments of bash do to a world: `A=b`, `A+=(...)`, `export A=b`, `unset A`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantctl.lint import braces
from quantctl.lint.parts import NAME, NAME_START
from quantctl.lint.words import Expander, source, spans, tears
from quantctl.lint.world import MANY, UNKNOWN, World, known

if TYPE_CHECKING:
    from tree_sitter import Node

_ELEMENT = re.compile(r"\[[^\]]*\]\+?=")
_MOST_SPARSE = 10_000


def assign(node: Node, world: World, tail: str = "", spread: bool = False) -> str:
    """Carry out one assignment; the variable's name.

    `tail`: source that belongs to the value and stands behind the node. `spread`: braces in it make several assignments
    of one, as for `export`: the last one stays.
    """
    target = node.child_by_field_name("name")
    if target is None:
        return ""
    append = any(child.type == "+=" for child in node.children)
    name = source(target.children[0] if target.type == "subscript" else target)
    expander = Expander(world)
    values = [child for child in node.children[2:] if child.is_named]
    if len(values) == 1 and values[0].type == "array":
        _whole(name, values[0], expander, append)
        return name
    raw, equals = source(node), next((child for child in node.children if child.type in ("=", "+=")), None)
    text = UNKNOWN
    if node.has_error:
        expander.forget_assigned_in(raw)
    elif equals is not None:
        # the grammar leaves an escaped blank in front of a value out
        value = raw.encode()[equals.end_byte - node.start_byte :].decode("utf-8", "replace") + tail
        every: Sequence[str | None] = (braces.expand(value) or [None]) if spread else [value]
        for each in every:  # all of them are expanded: `$((N++))` counts in each
            text = UNKNOWN if each is None else expander.value_of(each)
        if None in every:
            expander.forget_assigned_in(value)
        if len(every) > 1 and (not known(text) or re.search(r"\s", text)):
            text = UNKNOWN  # of several none is an assignment to bash's parser any more: they are split like words
    if target.type == "subscript":
        index = target.child_by_field_name("index")
        _element(name, "" if index is None else source(index), text, expander, append)
        return name
    if append:
        old = world.arrays[name][0] if world.arrays.get(name) else expander.value(name)
        text = (old if isinstance(old, str) else "" if old is None and name in world.arrays else UNKNOWN) + text
    world.assign(name, text.replace(MANY, UNKNOWN), expander.soft)
    return name


def assign_word(word: str, world: World) -> str:
    """The assignment that an expanded argument of `export` or `declare` is; its name, or nothing for no assignment."""
    name, equals, value = word.partition("=")
    if not name or name[0] not in NAME_START or not set(name) <= NAME:
        return ""
    if equals:
        world.assign(name, value.replace(MANY, UNKNOWN))
    return name


def _whole(name: str, value: Node, expander: Expander, append: bool) -> None:
    world = expander.world
    children = [child for child in value.children if child.is_named and child.type != "comment"]
    if any(text is None or _ELEMENT.match(text) for text in spans(children, value)) or value.has_error:
        expander.forget_assigned_in(source(value))
        world.assign_array(name, (MANY,))
        return
    words = expander.sequence(children, value)
    before = world.arrays.get(name, (world.scalars[name],) if name in world.scalars else ())
    world.assign_array(name, (*before, *words) if append else tuple(words))


def _element(name: str, index: str, text: str, expander: Expander, append: bool) -> None:
    """`A[i]=x`. A list with holes, and one whose places are names, is unknown as a whole."""
    world = expander.world
    items = world.arrays.get(name, (world.scalars[name],) if name in world.scalars else ())
    number = expander.number(index)
    if number is None or any(MANY in item for item in items) or not -len(items) <= number <= len(items) < _MOST_SPARSE:
        world.assign_array(name, (MANY,))
        return
    number += len(items) if number < 0 else 0
    if append:
        text = (items[number] if number < len(items) else "") + text
    world.assign_array(name, (*items[:number], text, *items[number + 1 :]))


def declare(node: Node, world: World) -> None:
    """`export`, `local`, `declare`, `readonly`."""
    kind, *_ = source(node).split(None, 1)
    if tears(node):
        world.work.note(f"line {node.start_point[0] + 1}: the grammar takes an escaped blank for the end of a word")
    children = node.children[1:]
    letters = "".join(source(child)[1:] for child in children if child.type == "word" and source(child)[:1] == "-")
    end = -1
    for child, following in zip(children, [*children[1:], None], strict=True):
        if child.start_byte == end:
            continue  # the rest of the value before it
        end = child.end_byte
        tail = source(following) if following is not None and following.start_byte == end else ""
        if child.type == "variable_assignment":
            target = child.child_by_field_name("name")
            if target is not None:
                _own(source(target.children[0] if target.type == "subscript" else target), kind, letters, world)
            name = assign(child, world, tail, True)
        elif child.type == "variable_name":
            name = source(child)
            _own(name, kind, letters, world)
            if "a" in letters.lower() and name not in world.arrays:
                world.assign_array(name, ())
        else:
            option = child.type == "word" and source(child)[:1] in "-+"
            found = [] if option else Expander(world).sequence([child], node)
            name = assign_word(found[0], world) if len(found) == 1 and known(found[0].partition("=")[0]) else ""
        if name and set(letters) & set("Anilu"):
            # numbers, references, places that are names: values that are not followed
            world.arrays.pop(name, None)
            world.assign_array(name, (MANY,)) if "A" in letters else world.assign(name, UNKNOWN)
        if name and (kind == "export" or "x" in letters):
            world.exported |= {name}
    if "n" in letters and kind != "export":
        world.work.note("variables stand for other variables in it (declare -n)")


def _own(name: str, kind: str, letters: str, world: World) -> None:
    """A function's own variable shadows what the name meant before, and begins without a value."""
    if world.saved is None or kind not in ("local", "declare", "typeset") or "g" in letters:
        return
    if name not in world.saved:
        before = World()
        before.give(name, world)
        world.saved[name] = before
        exported = world.exported
        world.drop(name)
        world.exported = exported


def unset(node: Node, world: World) -> None:
    for word in spans(node.children[1:], node):
        text = UNKNOWN if word is None else Expander(world).value_of(word)
        name, bracket, index = (text or "").partition("[")
        if text and not text.startswith("-"):
            if bracket:
                _unset_element(name, index.rstrip("]"), world)
            elif "-f" not in source(node).split()[:2]:
                world.drop(name)


def _unset_element(name: str, index: str, world: World) -> None:
    items = world.arrays.get(name)
    number = Expander(world).number(index)
    if items and number is not None and number in (len(items) - 1, -1) and not any(MANY in item for item in items):
        world.assign_array(name, items[:-1])
    elif items is not None:
        world.assign_array(name, (MANY,))


def forget_assigned(node: Node, world: World) -> None:
    """Every variable that the code assigns anywhere has a value that nobody knows: what a loop leaves behind."""
    stack = [node]
    while stack and world.work.spend(1):
        here = stack.pop()
        stack += here.children
        if here.type in ("postfix_expression", "unary_expression", "binary_expression"):
            for name in re.findall(r"[A-Za-z_]\w*", source(here)) if re.search(r"\+\+|--|=", source(here)) else ():
                if name in world.scalars or name in world.arrays:
                    world.forget(name)
        target = here.child_by_field_name("name") if here.type == "variable_assignment" else None
        if target is None:
            continue
        name = source(target.children[0] if target.type == "subscript" else target)
        if target.type == "subscript" or here.children[-1].type == "array":
            world.assign_array(name, (MANY,))
        else:
            world.forget(name)
