"""Expressions of a table of checks, evaluated with what is known: three-valued, and never executing anything."""

from __future__ import annotations

import math
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
    """An object whose attributes are in the heap."""

    id: int


@dataclass(frozen=True)
class Named:
    """A class, an enumeration's member or a module, by its name."""

    name: str


@dataclass(frozen=True)
class Lambda:
    """A function of one expression."""

    names: tuple[str, ...]
    body: Any


class Stop(Exception):
    """The program ends here, with a sentence."""


EXITS = "it exits"
_LARGEST = 10**12
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
}


def truth(value: Any) -> bool | None:
    """Whether a value counts as true; None if that is not known."""
    if value is UNKNOWN:
        return None
    return True if isinstance(value, (Ref, Named, Lambda)) else bool(value)


def compute(kind: str, left: Any, right: Any) -> Any:
    if left is UNKNOWN or right is UNKNOWN or kind not in _BINARY:
        return UNKNOWN
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    texts = isinstance(left, (str, tuple)) and type(left) is type(right) and kind == "Add"
    if numbers and abs(left) < _LARGEST and abs(right) < _LARGEST:
        if right == 0 and kind in ("Div", "FloorDiv", "Mod"):
            raise Stop("ZeroDivisionError: division by zero")
        return _BINARY[kind](left, right)
    if texts:
        return left + right
    if left is None or right is None:
        raise Stop("TypeError: a value that it computes with is None")
    return UNKNOWN


def _same(left: Any, right: Any) -> bool | None:
    """Equality; members of enumerations are given by name on the command line."""
    if isinstance(left, Named) or isinstance(right, Named):
        one, two = (value.name if isinstance(value, Named) else value for value in (left, right))
        return one == two if isinstance(one, str) and isinstance(two, str) else None if UNKNOWN in (one, two) else False
    if isinstance(left, Ref) or isinstance(right, Ref):
        return left == right if isinstance(left, Ref) and isinstance(right, Ref) else None
    return bool(left == right)


def _is(left: Any, right: Any) -> bool | None:
    if left is None or right is None or isinstance(right, bool):
        return left is right
    return _same(left, right)


def _within(left: Any, right: Any) -> bool | None:
    if isinstance(right, str):
        return left in right if isinstance(left, str) else None
    if not isinstance(right, (tuple, dict)):
        return None
    answers = [None if one is UNKNOWN else _same(left, one) for one in right]
    return True if True in answers else None if None in answers else False


def compare(kind: str, left: Any, right: Any) -> bool | None:
    """One comparison."""
    if left is UNKNOWN or right is UNKNOWN:
        return None
    if kind in ("Is", "IsNot"):
        answer = _is(left, right)
    elif kind in ("In", "NotIn"):
        answer = _within(left, right)
    elif kind in ("Eq", "NotEq"):
        answer = _same(left, right)
    else:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if left is None or right is None:
            raise Stop("TypeError: a value that it compares is None")
        return bool(_COMPARE[kind](left, right)) if numbers else None
    return answer if answer is None or kind in ("Is", "In", "Eq") else not answer


def built_in(name: str, words: list[Any]) -> Any:
    """A call of one of Python's own functions."""
    if name in ("any", "all") and len(words) == 1 and isinstance(words[0], tuple):
        answers = [truth(one) for one in words[0]]
        decided = name == "any"
        return decided if decided in answers else UNKNOWN if None in answers else not decided
    if any(word is UNKNOWN for word in words):
        return UNKNOWN
    try:
        return _BUILT_IN[name](*words) if name in _BUILT_IN else UNKNOWN
    except (TypeError, ValueError, ArithmeticError):
        return UNKNOWN


def _prod(words: Any) -> Any:
    return UNKNOWN if UNKNOWN in words else math.prod(words)


_BUILT_IN: dict[str, Callable[..., Any]] = {
    "int": lambda value=0: int(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "float": lambda value=0.0: float(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "str": lambda value="": str(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "bool": lambda value=False: UNKNOWN if truth(value) is None else truth(value),
    "len": lambda value: len(value) if isinstance(value, (str, tuple, dict)) else UNKNOWN,
    "abs": abs,
    "max": max,
    "min": min,
    "sum": lambda words: UNKNOWN if UNKNOWN in words else sum(words),
    "prod": _prod,
    "range": lambda *words: tuple(range(*words)) if max(map(abs, words)) < 10_000 else UNKNOWN,
    "list": lambda value=(): value if isinstance(value, tuple) else UNKNOWN,
    "tuple": lambda value=(): value if isinstance(value, tuple) else UNKNOWN,
    "set": lambda value=(): value if isinstance(value, tuple) else UNKNOWN,
    "sorted": lambda value: UNKNOWN,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
}

_METHODS = ("startswith", "endswith", "split", "strip", "lower", "upper", "count", "replace", "isdigit")


def of_text(text: str, name: str, words: list[Any]) -> Any:
    """A method of a string."""
    if name == "format":
        return text
    if name not in _METHODS or any(not isinstance(word, (str, int)) for word in words):
        return UNKNOWN
    try:
        found = getattr(text, name)(*words)
    except (TypeError, ValueError):
        return UNKNOWN
    return tuple(found) if isinstance(found, list) else found


_KINDS: dict[str, type | tuple[type, ...]] = {"list": tuple, "tuple": tuple, "str": str, "int": int, "float": float,
                                              "bool": bool, "dict": dict}  # fmt: skip


def instance(value: Any, kind: Any) -> Any:
    """isinstance, for Python's own types."""
    if value is UNKNOWN or not isinstance(kind, Named) or kind.name not in _KINDS:
        # what is written on a command line is of no class of PyTorch's
        return False if isinstance(value, str) and isinstance(kind, Named) and kind.name == "dtype" else UNKNOWN
    return isinstance(value, _KINDS[kind.name])
