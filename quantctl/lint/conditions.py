"""Tests of bash: which way a condition goes, or both, and what each way then knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantctl.lint import arithmetic, patterns
from quantctl.lint.words import Expander, source
from quantctl.lint.world import UNKNOWN, World, known

if TYPE_CHECKING:
    from tree_sitter import Node

Outcome = tuple[bool, World]
_EQUAL = {"==": True, "=": True, "!=": False}
_COMPARE = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
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


def both(node: Node, world: World) -> list[Outcome]:
    """Nobody knows: one world each way."""
    yes, no = world.copy(), world.copy()
    yes.branches += (label(source(node)),)
    no.branches += (f"not {label(source(node))}",)
    return [(True, yes), (False, no)]


def outcomes(node: Node, world: World) -> list[Outcome]:
    """Each way that a test can go."""
    kind = node.type
    inside = [child for child in node.children if child.is_named]
    if node.has_error:
        return both(node, world)
    if kind == "compound_statement" and source(node).startswith("(("):
        return _arithmetic(node, world)
    if kind == "test_command" and source(node).startswith("((") and source(node).endswith("))"):
        return _arithmetic(node, world)
    if kind in ("test_command", "parenthesized_expression") and len(inside) == 1:
        plain = kind == "test_command" and source(node)[:2] != "[["
        if plain and not _one_word_each(inside[0], world):
            return both(node, world)
        return outcomes(inside[0], world)
    if kind == "unary_expression" and len(node.children) == 2:
        return _unary(node, world)
    if kind == "binary_expression" and len(node.children) >= 3:
        return _binary(node, world)
    if kind in ("word", "string", "simple_expansion", "expansion", "concatenation", "raw_string", "number"):
        expander = Expander(world)
        value = expander.text(node)
        if value.replace(UNKNOWN, ""):
            return [(True, world)]
        return both(node, world) if value else _decided(node, world, False, expander.soft)
    return both(node, world)


def _one_word_each(node: Node, world: World) -> bool:
    """Whether `[ ... ]` sees the operands that the grammar sees: an unquoted one can be none or several words."""
    stack = [node]
    while stack:
        here = stack.pop()
        if here.type == "test_operator" and source(here) in ("-a", "-o"):
            return False
        if here.type in ("binary_expression", "unary_expression", "parenthesized_expression"):
            stack += here.children
        elif here.type in ("simple_expansion", "expansion", "concatenation", "command_substitution", "string"):
            if here.type == "string" and "@" not in source(here):
                continue
            found = Expander(world.copy()).words(source(here))
            if len(found) != 1 or (not known(found[0]) and here.type != "concatenation"):
                return len(found) == 1 and variable_of(here) is not None and here.parent is not None
    return True


def _both_sides(node: Node, inside: list[Node], world: World) -> list[Outcome]:
    conjunction = any(source(child) == "&&" for child in node.children)
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
    value = expander.number(source(node)[2:-2])
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
        return _both_sides(node, [left, right], world)
    if left.type == "unary_expression" and source(left.children[0]) == "!":
        # `! A == B` is read as `(! A) == B`
        return [(not truth, after) for truth, after in _relation(left.children[-1], operator, right, node, world)]
    return _relation(left, operator, right, node, world)


def _relation(left: Node, operator: str, right: Node, node: Node, world: World) -> list[Outcome]:
    expander = Expander(world)
    one = expander.text(left)
    if operator in _COMPARE:
        return _compared(node, one, expander.text(right), operator, expander)
    if operator not in _EQUAL:
        return both(node, world)
    plain = node.parent is not None and _in_brackets(node)
    try:
        pattern = None if plain else expander.pattern(source(right))
    except patterns.NoPattern:
        return both(node, world)
    two = expander.text(right)
    literal = plain or pattern == list(two)
    if known(one) and known(two) and (plain or pattern is not None):
        equal = one == two if literal else matches(pattern or [], one, world)
        found = _decided(node, world, equal == _EQUAL[operator], expander.soft)
    else:
        found = both(node, world)
    if not literal:
        return found
    return [outcome for outcome in found if _narrow(outcome, variable_of(left), two, _EQUAL[operator])]


def _in_brackets(node: Node) -> bool:
    """Whether a comparison stands in `[ ... ]`, where nothing is a pattern."""
    here = node
    while here.parent is not None and here.type != "test_command":
        here = here.parent
    return source(here)[:2] != "[["


def _compared(node: Node, one: str, two: str, operator: str, expander: Expander) -> list[Outcome]:
    """Whole numbers; in `[[ ]]` they may be expressions."""
    if not (known(one) and known(two)):
        return both(node, expander.world)
    if operator in ("<", ">"):
        if not (one.isascii() and two.isascii()):
            return both(node, expander.world)
        return _decided(node, expander.world, one < two if operator == "<" else one > two, expander.soft)
    try:
        numbers = [
            int(text) if _in_brackets(node) else arithmetic.evaluate(text, expander.world) for text in (one, two)
        ]
    except (ValueError, arithmetic.NotComputed):
        return both(node, expander.world)
    return _decided(node, expander.world, _COMPARE[operator](*numbers), expander.soft)


def _narrow(outcome: Outcome, name: str | None, wanted: str, equality: bool) -> bool:
    """Tell the world what the comparison means for the variable; False if that cannot be."""
    truth, world = outcome
    if name is None or not known(wanted):
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


def matches(items: list[patterns.Item], value: str, world: World) -> bool:
    try:
        return patterns.matches(items, value, world.work)
    except patterns.NoPattern:
        return False  # the work is spent, which the script says
