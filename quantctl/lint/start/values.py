"""Values of a followed program, with what is not known among them: three-valued, and never executing anything."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class _Unknown:
    """What is not known: comparing and computing with it is not known either."""

    def __repr__(self) -> str:
        return "…"


UNKNOWN: Any = _Unknown()


@dataclass(frozen=True)
class Ref:
    """An object, a dictionary or a list: what it holds is in the heap."""

    id: int


@dataclass(frozen=True)
class Named:
    """A class, a function, an enumeration's member or a module, by its name."""

    name: str
    of: str = ""
    """The enumeration that it is a member of, where that is known."""
    module: str = ""
    """Where the tree defines it."""


@dataclass(frozen=True)
class Lambda:
    """A function of one expression, with what it sees."""

    names: tuple[str, ...]
    body: Any
    env: Any


class Stop(Exception):
    """The program ends here, with a sentence."""

    def __init__(self, said: str, line: int | None = None) -> None:
        super().__init__(said)
        self.line = line
        """Of the check that fails."""
        self.where = ""
        """The function that it stands in."""


EXITS = "it exits"
_LARGEST = 10**12
LONGEST = 2**14
"""Characters of a text, and elements of a list, that are followed."""
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
}
_SETS: dict[str, Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]] = {
    "BitOr": lambda one, two: tuple(dict.fromkeys((*one, *two))),
    "BitAnd": lambda one, two: tuple(each for each in one if each in two),
    "Sub": lambda one, two: tuple(each for each in one if each not in two),
}


def whole(value: Any) -> bool:
    """Whether a value is known with all of its elements."""
    return all(map(whole, value)) if isinstance(value, tuple) else value is not UNKNOWN


def compute(kind: str, left: Any, right: Any) -> Any:
    """Two plain values: numbers, texts, tuples."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if numbers and kind in _BINARY and abs(left) < _LARGEST and abs(right) < _LARGEST:
        if right == 0 and kind in ("Div", "FloorDiv", "Mod"):
            raise Stop("ZeroDivisionError: division by zero")
        return _BINARY[kind](left, right)
    rows = (str, tuple)
    if kind == "Add" and any(isinstance(left, row) and isinstance(right, row) for row in rows):
        joined: Any = operator.add(left, right)
        return joined if len(joined) <= LONGEST else UNKNOWN
    if kind == "Mult" and {type(left), type(right)} in ({int, str}, {int, tuple}):
        row, count = (left, right) if isinstance(left, rows) else (right, left)
        return row * count if len(row) * abs(count) <= LONGEST else UNKNOWN
    if isinstance(left, tuple) and isinstance(right, tuple) and kind in _SETS:
        return _SETS[kind](left, right) if whole(left) and whole(right) else UNKNOWN
    if (left is None or right is None) and kind in _BINARY and not (kind == "Mod" and isinstance(left, str)):
        raise Stop("TypeError: a value that it computes with is None")
    return UNKNOWN


def same(left: Any, right: Any) -> bool | None:
    """Equality; of an enumeration that is not known, members are given by name on the command line."""
    if left is UNKNOWN or right is UNKNOWN:
        return None
    if isinstance(left, Named) or isinstance(right, Named):
        if isinstance(left, Named) and isinstance(right, Named):
            return (
                left.name == right.name
                if not (left.of and right.of)
                else (left.of, left.name) == (right.of, right.name)
            )
        member, other = (left, right) if isinstance(left, Named) else (right, left)
        return False if member.of or not isinstance(other, str) else member.name == other
    if isinstance(left, Ref) or isinstance(right, Ref):
        return True if left == right else None if isinstance(left, Ref) and isinstance(right, Ref) else False
    if isinstance(left, tuple) and isinstance(right, tuple):
        if len(left) != len(right):
            return False
        answers = [same(one, two) for one, two in zip(left, right, strict=True)]
        return False if False in answers else None if None in answers else True
    return bool(left == right)


def _is(left: Any, right: Any) -> bool | None:
    if left is None or right is None or isinstance(right, bool):
        return left is right
    return same(left, right)


def _within(left: Any, right: Any) -> bool | None:
    if isinstance(right, str):
        return left in right if isinstance(left, str) else None
    if not isinstance(right, tuple):
        return None
    answers = [same(left, one) for one in right]
    return True if True in answers else None if None in answers else False


def compare(kind: str, left: Any, right: Any) -> bool | None:
    """One comparison of plain values."""
    if left is UNKNOWN or right is UNKNOWN:
        return None
    if kind in ("Is", "IsNot"):
        answer = _is(left, right)
    elif kind in ("In", "NotIn"):
        answer = _within(left, right)
    elif kind in ("Eq", "NotEq"):
        answer = same(left, right)
    else:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if left is None or right is None:
            raise Stop("TypeError: a value that it compares is None")
        return bool(_COMPARE[kind](left, right)) if numbers and kind in _COMPARE else None
    return answer if answer is None or kind in ("Is", "In", "Eq") else not answer
