"""Tests of bash: which way a condition goes, or both, and what each way then knows."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from quantctl.lint.words import Expander, source
from quantctl.lint.world import UNKNOWN, World, known
from quantctl.outside.numbers import whole

if TYPE_CHECKING:
    from tree_sitter import Node

Outcome = tuple[bool, World]
_EQUAL = {"==": True, "=": True, "-eq": True, "!=": False, "-ne": False}
_COMPARE = {
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}
_LONGEST_LABEL = 60


def variable_of(node: Node | None) -> str | None:
    """The name in `$NAME`, `"$NAME"` or `"${NAME}"`; None if the word is anything else."""
    while node is not None and node.type == "string" and len(node.children) == 3:
        node = node.children[1]
    if node is None or node.type not in ("simple_expansion", "expansion"):
        return None
    inside = [child for child in node.children if child.is_named]
    return source(inside[0]) if len(inside) == 1 and inside[0].type == "variable_name" else None


def label(text: str) -> str:
    """A test as people are shown it."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 3] + "..."


def is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def both(node: Node, world: World) -> list[Outcome]:
    """Nobody knows: one world each way."""
    yes, no = world.copy(), world.copy()
    yes.branches += (label(source(node)),)
    no.branches += (f"not {label(source(node))}",)
    return [(True, yes), (False, no)]


def outcomes(node: Node, world: World) -> list[Outcome]:
    """Each way that the condition can go. A command's success is never known, but for `true`, `false` and `:`."""
    kind = node.type
    inside = [child for child in node.children if child.is_named]
    if node.has_error:
        return both(node, world)
    if kind == "list" and len(inside) == 2:
        return _list(node, inside, world)
    if kind == "negated_command" and inside:
        return [(not truth, after) for truth, after in outcomes(inside[0], world)]
    if kind == "compound_statement" and source(node).startswith("(("):
        return _arithmetic(node, world)
    if kind in ("test_command", "parenthesized_expression") and len(inside) == 1:
        return outcomes(inside[0], world)
    if kind == "unary_expression" and len(node.children) == 2:
        return _unary(node, world)
    if kind == "binary_expression" and len(node.children) >= 3:
        return _binary(node, world)
    if kind == "command" and source(node) in ("true", ":", "false"):
        return [(source(node) != "false", world)]
    return both(node, world)


def _list(node: Node, inside: list[Node], world: World) -> list[Outcome]:
    conjunction = any(child.type == "&&" for child in node.children)
    found: list[Outcome] = []
    for truth, after in outcomes(inside[0], world):
        found += outcomes(inside[1], after) if truth == conjunction else [(truth, after)]
    return found


def _decided(node: Node, world: World, truth: bool, soft: bool) -> list[Outcome]:
    """One way, or also the other if the caller can change what decides."""
    if not soft:
        return [(truth, world)]
    other = world.copy()
    other.assumed += (label(source(node)) if not truth else f"not {label(source(node))}",)
    return [(truth, world), (not truth, other)]


def _arithmetic(node: Node, world: World) -> list[Outcome]:
    expander = Expander(world)
    value = expander.number(node)
    return both(node, world) if value is None else _decided(node, world, bool(value), expander.soft)


def _unary(node: Node, world: World) -> list[Outcome]:
    operator, operand = node.children
    if operator.type == "!":
        return [(not truth, after) for truth, after in outcomes(operand, world)]
    if source(operator) not in ("-z", "-n"):
        return both(node, world)
    expander = Expander(world)
    value, empty = expander.text(operand), source(operator) == "-z"
    if value.replace(UNKNOWN, ""):
        return [(not empty, world)]
    if value == "":
        return _decided(node, world, empty, expander.soft)
    found = both(node, world)
    if name := variable_of(operand):
        next(after for truth, after in found if truth == empty).assign(name, "")
    return found


def _binary(node: Node, world: World) -> list[Outcome]:
    left, right = node.children[0], node.children[-1]
    operator = source(node.children[1])
    if operator in ("&&", "||"):
        return _list(node, [left, right], world)
    expander = Expander(world)
    one, two = expander.text(left), expander.text(right)
    numbers = whole(one), whole(two)
    if operator in _COMPARE and None not in numbers:
        return _decided(node, world, _COMPARE[operator](*numbers), expander.soft)
    if operator not in _EQUAL:
        return both(node, world)
    if known(one) and known(two):
        equal = fnmatch.fnmatchcase(one, two) if is_pattern(two) and right.type != "string" else one == two
        found = _decided(node, world, equal == _EQUAL[operator], expander.soft)
    else:
        found = both(node, world)
    return [outcome for outcome in found if _narrow(outcome, variable_of(left), two, _EQUAL[operator])]


def _narrow(outcome: Outcome, name: str | None, wanted: str, equality: bool) -> bool:
    """Tell the world what the comparison means for the variable; False if that cannot be."""
    truth, world = outcome
    if name is None or not known(wanted) or is_pattern(wanted):
        return True
    equal, now = truth == equality, world.scalars.get(name, UNKNOWN)
    candidates = world.soft.get(name)
    if equal and now != wanted:
        if (candidates is not None and wanted not in candidates) or wanted in world.never.get(name, ()):
            return False
        world.assign(name, wanted)
    elif not equal and not known(now):
        world.never[name] = world.never.get(name, frozenset()) | {wanted}
    elif not equal and now == wanted:
        left = None if candidates is None else candidates - {wanted}
        if left == frozenset():
            return False
        only = next(iter(left)) if left is not None and len(left) == 1 else UNKNOWN
        world.assign(name, only)
    return True


def arms(node: Node, world: World) -> list[tuple[Node | None, World]]:
    """The items of a `case` that can be taken, each with a world that knows its word; None: no item matches."""
    word = node.child_by_field_name("value")
    expander = Expander(world)
    value, name = expander.text(word), variable_of(word)
    candidates = world.soft.get(name) if name else None
    found: list[tuple[Node | None, World]] = []
    matched = False
    for item in (child for child in node.children if child.type == "case_item"):
        patterns = [Expander(world).text(pattern) for pattern in item.children_by_field_name("value")]
        literal = frozenset(pattern for pattern in patterns if known(pattern) and not is_pattern(pattern))
        hit = known(value) and any(known(p) and fnmatch.fnmatchcase(value, p) for p in patterns)
        if hit and not matched:
            matched = True
            taken = world.copy()
            if name in taken.soft:
                taken.soft[name] = literal or None
            found.insert(0, (item, taken))
        elif not known(value) or (expander.soft and not (hit and matched)):
            possible = literal if candidates is None else literal & candidates
            if candidates is not None and not possible:
                continue
            found.append((item, _other(world, name, label(source(node.children[1])), patterns, possible, value)))
    if not known(value) and not matched:
        found.append((None, world.copy()))
    return found or [(None, world)]


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
