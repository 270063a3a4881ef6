"""Arithmetic of bash on text whose `$` are expanded: 64-bit whole numbers, variables, assignments."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from quantctl.lint.world import World, known

_TOKEN = re.compile(
    r"\s*(?:(\d+#[0-9A-Za-z@_]+|0[xX][0-9A-Fa-f]+|\d+)|([A-Za-z_]\w*)"
    r"|(<<=|>>=|\*\*|<<|>>|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|[-+*/%<>=!~&|^?:,()]))"
)
_BINARY = {"||": 3, "&&": 4, "|": 5, "^": 6, "&": 7, "==": 8, "!=": 8, "<": 9, "<=": 9, ">": 9, ">=": 9,
           "<<": 10, ">>": 10, "+": 11, "-": 11, "*": 12, "/": 12, "%": 12, "**": 14}  # fmt: skip
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ@_"
_VALUE = re.compile(r"\w")
_DEEPEST = 20
_LONGEST = 10_000


class NotComputed(Exception):
    """A part is unknown, or the text is no arithmetic."""


class Fails(NotComputed):
    """A division by zero, a negative exponent, text that is no arithmetic: bash gives the command up."""


def _wrap(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _quotient(a: int, b: int) -> int:
    """Towards zero."""
    if b == 0:
        raise Fails
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _power(a: int, b: int) -> int:
    if b < 0:
        raise Fails
    return pow(a, b, 2**64)


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _quotient,
    "%": lambda a, b: a - b * _quotient(a, b),
    "**": _power,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "<<": lambda a, b: a << (b % 64),
    ">>": lambda a, b: a >> (b % 64),
}


def literal(text: str) -> int:
    """A constant: decimal, 0x, a leading 0 for octal, BASE#DIGITS. Raises NotComputed for anything else."""
    try:
        if "#" in text:
            base, digits = int(text.partition("#")[0]), text.partition("#")[2]
            if not 2 <= base <= 64:
                raise NotComputed
            number = 0
            for digit in digits.lower() if base <= 36 else digits:
                value = _DIGITS.index(digit)
                if value >= base:
                    raise NotComputed
                number = number * base + value
            return _wrap(number)
        if text[:2].lower() == "0x":
            return _wrap(int(text, 16))
        return _wrap(int(text, 8 if text.startswith("0") and len(text) > 1 else 10))
    except ValueError:
        raise NotComputed from None


class _Parser:
    def __init__(self, text: str, world: World, depth: int) -> None:
        if len(text) > _LONGEST or depth > _DEEPEST or not world.work.spend(10 + len(text)):
            raise NotComputed
        self.world = world
        self.depth = depth
        self.live = True
        """Whether assignments count: the side of && or ?: that is not taken changes nothing."""
        self.tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise NotComputed if "[" in text else Fails
            self.tokens.append(match[0].strip())
            at = match.end()
        if any(_VALUE.match(one) and _VALUE.match(two) for one, two in pairwise(self.tokens)):
            raise Fails  # two values with nothing between them
        self.at = 0
        self.nesting = 0

    def look(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, token: str) -> bool:
        if self.look() == token:
            self.at += 1
            return True
        return False

    def comma(self) -> int:
        value = self.assignment()
        while self.take(","):
            value = self.assignment()
        return value

    def assignment(self) -> int:
        name, operator = self.look(), self.look(1)
        if name and (name[0].isalpha() or name[0] == "_") and operator in _ASSIGN:
            self.at += 2
            old = self.variable(name) if len(operator) > 1 else 0
            value = self.assignment()
            if len(operator) > 1:
                value = self.compute(operator[:-1], old, value)
            self.store(name, value)
            return value
        return self.ternary()

    def ternary(self) -> int:
        condition = self.binary(3)
        if not self.take("?"):
            return condition
        yes = self.lazily(bool(condition), self.assignment)
        if not self.take(":"):
            raise NotComputed
        no = self.lazily(not condition, self.ternary)
        return yes if condition else no

    def lazily(self, live: bool, part: Callable[[], int]) -> int:
        before, self.live = self.live, self.live and live
        value = part()
        self.live = before
        return value

    def binary(self, least: int) -> int:
        self.nesting += 1
        if self.nesting > 100:
            raise NotComputed
        left = self.unary()
        while (level := _BINARY.get(self.look(), 0)) >= least:
            operator = self.look()
            self.at += 1
            if operator in ("&&", "||"):
                decided = bool(left) == (operator == "||")
                right = self.lazily(not decided, lambda level=level: self.binary(level + 1))  # type: ignore[misc]
                left = int(bool(left or right) if operator == "||" else bool(left and right))
            else:
                right = self.binary(level + (operator != "**"))
                left = self.compute(operator, left, right)
        self.nesting -= 1
        return left

    def compute(self, operator: str, left: int, right: int) -> int:
        if not self.live and operator in ("/", "%", "**"):
            return 0
        return _wrap(_OPERATIONS[operator](left, right))

    def unary(self) -> int:
        token = self.look()
        if token in ("++", "--") and re.match(r"[A-Za-z_]", self.look(1)):
            self.at += 2
            name = self.tokens[self.at - 1]
            value = _wrap(self.variable(name) + (1 if token == "++" else -1))
            self.store(name, value)
            return value
        if token in ("+", "-", "!", "~", "++", "--"):
            self.at += 1
            value = self.unary()
            return _wrap({"+": value, "-": -value, "!": int(not value), "~": ~value}.get(token, value))
        if self.take("("):
            value = self.comma()
            if not self.take(")"):
                raise NotComputed
            return value
        self.at += 1
        if token[:1].isdigit():
            return literal(token)
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise NotComputed
        value = self.variable(token)
        if self.look() in ("++", "--"):
            self.store(token, _wrap(value + (1 if self.look() == "++" else -1)))
            self.at += 1
        return value

    def variable(self, name: str) -> int:
        """Its value, which may be an expression again; without a value it is 0, where the caller cannot set it."""
        items = self.world.arrays.get(name)
        text = (items[0] if items else "") if items is not None else self.world.scalars.get(name)
        if text is None and name in self.world.gone:
            return 0
        if text is None or not known(text):
            raise NotComputed
        return evaluate(text, self.world, self.depth + 1)

    def store(self, name: str, value: int) -> None:
        if self.live:
            self.world.assign(name, str(value))


_ASSIGN = ("=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "^=", "|=")


def evaluate(text: str, world: World, depth: int = 0) -> int:
    """The value of an expression; assignments in it are carried out. Raises NotComputed."""
    parser = _Parser(text, world, depth)
    if not parser.tokens:
        return 0
    value = parser.comma()
    if parser.at != len(parser.tokens):
        raise Fails
    return value
