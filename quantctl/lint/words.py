"""Words of bash: quoting, variables, arrays, `${NAME:-default}`, arithmetic, on tree-sitter's syntax tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantctl.lint.world import MANY, UNKNOWN, Work, World, known
from quantctl.outside.numbers import whole

if TYPE_CHECKING:
    from tree_sitter import Node


def _quotient(a: int, b: int) -> int:
    """Towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _in_64_bits(number: int | None) -> int | None:
    return None if number is None else (number + 2**63) % 2**64 - 2**63


_OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: None if b == 0 else _quotient(a, b),
    "%": lambda a, b: None if b == 0 else a - b * _quotient(a, b),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "&&": lambda a, b: int(bool(a and b)),
    "||": lambda a, b: int(bool(a or b)),
}
_NO_TEXT = (UNKNOWN, MANY, "\0")
_SIGNS: dict[str, Callable[[int], int | None]] = {"-": lambda a: -a, "+": lambda a: a, "!": lambda a: int(not a)}


def source(node: Node) -> str:
    """The node's text. Bytes that are no UTF-8 cannot be a flag's."""
    return (node.text or b"").decode("utf-8", "replace")


@dataclass
class _Line:
    """Words in the making: a piece joins the last word unless a blank came between."""

    work: Work
    words: list[str] = field(default_factory=list)
    open: bool = False

    def join(self, text: str) -> None:
        if not self.work.spend(1 + len(text) // 50):
            text = UNKNOWN
        if self.open:
            self.words[-1] = self.work.text(self.words[-1] + text)
        else:
            self.words.append(text)
        self.open = True

    def split(self, text: str) -> None:
        """An unquoted value: blanks in it separate words."""
        parts = re.split(r"[ \t\n]+", text)
        for index, part in enumerate(parts):
            if index:
                self.open = False
            if part:
                self.join(part)

    def spread(self, items: tuple[str, ...]) -> None:
        """An array in quotes: its first element joins what is before it, its last what comes behind."""
        for index, item in enumerate(items):
            if index:
                self.open = False
            self.join(item)


class Expander:
    """Expands words in one world. `soft` says afterwards whether a default that the caller can change took part."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.soft = False

    def words(self, node: Node) -> list[str]:
        """The arguments that a word of a command becomes."""
        line = _Line(self.world.work)
        self._into(node, line, quoted=False)
        return line.words

    def sequence(self, nodes: list[Node]) -> list[str]:
        """The words of several arguments or array elements."""
        found: list[str] = []
        end = -1
        for node in nodes:
            if node.start_byte == end and found:
                found[-1] += MANY  # the grammar tears words like $1_$NAME.txt apart
            else:
                found += self.words(node)
            end = node.end_byte
        return list(self.world.work.words(found))

    def text(self, node: Node | None) -> str:
        """The value that a word has in an assignment or a test, where blanks separate nothing."""
        if node is None:
            return ""
        line = _Line(self.world.work)
        self._into(node, line, quoted=True)
        words = self.world.work.words(line.words)
        return self.world.work.text(" ".join(words).replace(MANY, UNKNOWN))

    def _into(self, node: Node, line: _Line, quoted: bool) -> None:
        if node.has_error:
            line.join(UNKNOWN if quoted else MANY)
            return
        kind = node.type
        if kind in ("word", "number", "extglob_pattern", "regex", "variable_name", "test_operator"):
            # the grammar makes words of blanks in a default value
            text = re.sub(r"\\\n", "", source(node))
            line.join(re.sub(r"\\(.)", r"\1", text))
        elif kind == "raw_string":
            line.join(source(node)[1:-1])
        elif kind == "ansi_c_string":
            text = source(node)[2:-1].encode("latin-1", "replace").decode("unicode_escape", "replace")
            line.join("".join("?" if sign in _NO_TEXT or "\ud800" <= sign <= "\udfff" else sign for sign in text))
        elif kind in ("string", "translated_string"):
            self._string(node, line)
        elif kind == "command_name":
            self._into(node.children[0], line, quoted)
        elif kind == "concatenation":
            for child in node.children:
                self._into(child, line, quoted)
        elif kind in ("simple_expansion", "expansion"):
            self._variable(node, line, quoted)
        elif kind == "arithmetic_expansion":
            value = self.number(node)
            line.join(UNKNOWN if value is None else str(value))
        else:
            line.join(UNKNOWN if quoted else MANY)

    def _string(self, node: Node, line: _Line) -> None:
        if not _only_list(node):
            line.join("")
        raw, end = node.text or b"", node.start_byte + 1
        for child in node.children[1:]:
            # the grammar leaves blanks beside an expansion out
            between = raw[end - node.start_byte : child.start_byte - node.start_byte]
            if between:
                line.join(between.decode("utf-8", "replace"))
            end = child.end_byte
            if child.type == "string_content":
                text = re.sub(r"\\\n", "", source(child))
                line.join(re.sub(r'\\([$`"\\])', r"\1", text))
            elif child.type != '"':
                self._into(child, line, quoted=True)

    def _variable(self, node: Node, line: _Line, quoted: bool) -> None:
        value = self.expansion(node)
        if isinstance(value, tuple):
            if quoted:
                line.spread(value)
            else:
                for index, item in enumerate(value):
                    line.open = line.open and index == 0
                    line.split(item.replace(UNKNOWN, MANY))
        elif quoted:
            line.join(value)
        else:
            line.split(value.replace(UNKNOWN, MANY))

    def expansion(self, node: Node) -> str | tuple[str, ...]:
        """What `$NAME`, `${NAME...}`, `$1` or `${NAME[@]}` stands for."""
        inner = [child for child in node.children if child.type not in ("$", "${", "}")]
        if not inner:
            return UNKNOWN
        if inner[0].type not in ("variable_name", "special_variable_name", "subscript"):
            return UNKNOWN  # ${#name}, ${!name}
        value = self._subscript(inner[0]) if inner[0].type == "subscript" else self.value(source(inner[0]))
        if len(inner) == 1:
            return UNKNOWN if value is None else value
        return self._operator(source(inner[1]), inner[2:], value)

    def _operator(self, operator: str, rest: list[Node], value: str | tuple[str, ...] | None) -> str | tuple[str, ...]:
        absent = value is None or (value in ("", ()) and operator.startswith(":"))
        if operator in (":-", "-", ":=", "="):
            if not absent and value is not None:
                return value
            self.soft = True
            return self.text(rest[0]) if rest else ""
        if operator in (":+", "+"):
            # ${ARRAY[@]+"${ARRAY[@]}"} guards an array that may be empty; a variable of the caller's is not there
            if absent:
                self.soft = self.soft or value is None
                return ""
            if isinstance(value, str) and not known(value):
                return UNKNOWN
            line = _Line(self.world.work)
            if rest:
                self._into(rest[0], line, quoted=False)
            return tuple(line.words)
        if operator in (":?", "?") and value is not None:
            return value
        return UNKNOWN

    def _subscript(self, node: Node) -> str | tuple[str, ...] | None:
        name, index = node.child_by_field_name("name"), node.child_by_field_name("index")
        if name is None or index is None:
            return UNKNOWN
        variable = source(name)
        items = self.world.arrays.get(variable)
        if items is None:
            value = self.value(variable)
            return (MANY,) if value is None and source(index) in ("@", "*") else value
        if source(index) in ("@", "*"):
            return items
        number = self.number(index)
        if number is None or any(MANY in item for item in items):
            return UNKNOWN
        return items[number] if -len(items) <= number < len(items) else None

    def value(self, name: str) -> str | tuple[str, ...] | None:
        """A variable's value; None if the script did not set it."""
        world = self.world
        if name in ("@", "*"):
            return (MANY,) if world.positional is None else world.positional
        if name == "#":
            self.soft = self.soft or world.positional is None
            return str(len(world.positional or ()))
        number = whole(name)
        if number:
            if world.positional is None:
                return world.scalars.get(name)
            return world.positional[number - 1] if 0 < number <= len(world.positional) else None
        if name[0].isdigit():
            return UNKNOWN  # the grammar reads $1_ as one name
        if name in world.arrays:
            return world.arrays[name][0] if world.arrays[name] else None
        self.soft = self.soft or name in world.soft
        return world.scalars.get(name)

    def number(self, node: Node) -> int | None:
        """An arithmetic expression; None if any part of it is unknown."""
        kind = node.type
        if node.has_error:
            return None
        if kind in ("arithmetic_expansion", "parenthesized_expression", "compound_statement"):
            inside = [child for child in node.children if child.is_named]
            return self.number(inside[0]) if len(inside) == 1 else None
        if kind == "unary_expression" and len(node.children) == 2:
            operand = self.number(node.children[1])
            return None if operand is None else _SIGNS.get(source(node.children[0]), lambda _: None)(operand)
        if kind == "binary_expression":
            left, right = (self.number(child) for child in (node.children[0], node.children[-1]))
            operator = _OPERATORS.get(source(node.children[1]))
            if left is None or right is None or operator is None:
                return None
            return _in_64_bits(operator(left, right))
        text = source(node) if kind in ("number", "word", "variable_name") else self.text(node)
        if re.fullmatch(r"[A-Za-z_]\w*", text):
            value = self.value(text)
            text = value if isinstance(value, str) else UNKNOWN
        return whole(text)


def _only_list(node: Node) -> bool:
    """Whether a string is "$@" or "${NAME[@]}" alone: with nothing in it, it is no word at all."""
    inside = node.children[1:-1]
    return len(inside) == 1 and inside[0].type in ("expansion", "simple_expansion") and b"@" in (inside[0].text or b"")
