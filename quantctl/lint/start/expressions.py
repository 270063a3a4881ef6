"""Expressions of a followed program, with what is known of a command."""

from __future__ import annotations

from typing import Any

from quantctl.lint.start.heap import CLASS, LOST, Env
from quantctl.lint.start.names import Names
from quantctl.lint.start.source import Class
from quantctl.lint.start.syntax import Code
from quantctl.lint.start.values import UNKNOWN, Lambda, Named, Ref, Stop, compare, compute, whole

MOST_STEPS = 100_000


class GaveUp(Exception):
    """It asks for more steps than are taken."""


def _nobody_knows(code: Code, env: Env) -> Any:
    return UNKNOWN


def said(value: Any) -> str:
    """A value as it stands in a sentence."""
    return "…" if value is UNKNOWN or isinstance(value, Ref) else value.name if isinstance(value, Named) else str(value)


def _is_key(value: Any) -> bool:
    """Whether a value is known well enough to find an element by it."""
    return all(map(_is_key, value)) if isinstance(value, tuple) else isinstance(value, (str, int, Named))


class Expressions(Names):
    """The part of a run that knows values."""

    steps: int

    def value(self, code: Code, env: Env) -> Any:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise GaveUp
        return getattr(self, f"_x_{code[0].replace(' ', '_')}", _nobody_knows)(code, env)

    def _x_c(self, code: Code, env: Env) -> Any:
        return code[1]

    def _x_lambda(self, code: Code, env: Env) -> Any:
        return Lambda(tuple(code[1]), code[2], env)

    # ---- operators ----

    def _x_and(self, code: Code, env: Env) -> Any:
        return self._either(code, env, False)

    def _x_or(self, code: Code, env: Env) -> Any:
        return self._either(code, env, True)

    def _either(self, code: Code, env: Env, decides: bool) -> Any:
        unknown, last = False, UNKNOWN
        for part in code[1:]:
            try:
                last = self.value(part, env)
            except Stop:
                if not unknown:
                    raise
                return UNKNOWN
            answer = self.truth(last)
            if answer is decides:
                return last if not unknown else decides
            unknown = unknown or answer is None
        return UNKNOWN if unknown else last

    def _x_not(self, code: Code, env: Env) -> Any:
        answer = self.truth(self.value(code[1], env))
        return UNKNOWN if answer is None else not answer

    def _x_neg(self, code: Code, env: Env) -> Any:
        value = self.value(code[1], env)
        return -value if isinstance(value, (int, float)) else UNKNOWN

    def _x_cmp(self, code: Code, env: Env) -> Any:
        left, unknown = self.plain(self.value(code[1], env)), False
        for kind, part in code[2]:
            right = self.plain(self.value(part, env))
            answer = compare(kind, left, self._keys(right, left) if kind in ("In", "NotIn") else right)
            if answer is False:
                return False
            unknown = unknown or answer is None
            left = right
        return UNKNOWN if unknown else True

    def _keys(self, row: Any, key: Any) -> Any:
        """What a value can be in: a dictionary's keys, as far as they are known."""
        if not isinstance(row, Ref):
            return row
        fields = self.heap[row.id]
        if LOST in fields and isinstance(key, (str, int)) and fields.get(key, UNKNOWN) is not UNKNOWN:
            return (key,)
        return UNKNOWN if CLASS in fields or LOST in fields else tuple(fields)

    def _x_bin(self, code: Code, env: Env) -> Any:
        left, right = self.value(code[2], env), self.value(code[3], env)
        found = compute(code[1], self.plain(left, False), self.plain(right, False))
        lists = self.is_list(left) or self.is_list(right)
        return self.new_list(found) if lists and isinstance(found, tuple) else found

    def _x_if(self, code: Code, env: Env) -> Any:
        known = self.truth(self.value(code[1], env))
        return UNKNOWN if known is None else self.value(code[2] if known else code[3], env)

    # ---- rows ----

    def _x_list(self, code: Code, env: Env) -> Any:
        return self.new_list(self._x_tuple(code, env))

    def _x_tuple(self, code: Code, env: Env) -> tuple[Any, ...]:
        return tuple(self.value(part, env) for part in code[1:])

    def _x_set(self, code: Code, env: Env) -> Any:
        found = self._x_tuple(code, env)
        return tuple(dict.fromkeys(found)) if whole(found) else found

    def _x_dict(self, code: Code, env: Env) -> Any:
        pairs = [(self.value(key, env), self.value(part, env)) for key, part in code[1]]
        if not all(_is_key(key) for key, _ in pairs):
            return UNKNOWN
        return self.new(dict(pairs))

    def _x_idx(self, code: Code, env: Env) -> Any:
        owner, place = self.value(code[1], env), code[2]
        if (of := self.class_of(owner)) is not None:
            return self._by_name(of, self.value(place, env), env)
        row = self.plain(owner, False)
        if place[0] == "slice":
            ends = [self.value(part, env) for part in place[1:]]
            fits = isinstance(row, (tuple, str)) and all(one is None or isinstance(one, int) for one in ends)
            found = row[slice(*ends)] if fits and ends[2] != 0 else UNKNOWN
            return self.new_list(found) if self.is_list(owner) else found
        key = self.value(place, env)
        if isinstance(row, Ref):
            return self.looked_up(row, key)
        if row is None:
            raise Stop("TypeError: a value that it takes an element of is None")
        if not isinstance(row, (tuple, str)) or not isinstance(key, int):
            return UNKNOWN
        if not -len(row) <= key < len(row):
            raise Stop("IndexError: a list has fewer elements than it takes")
        return row[key]

    def _by_name(self, of: Class, key: Any, env: Env) -> Any:
        """`CudaGraphScope[name]`."""
        names = self.members(of)
        if names is None or not isinstance(key, str):
            return UNKNOWN
        if key not in names:
            raise Stop(f"KeyError: {key!r} is none of {of.name}: {', '.join(names)}")
        return self.member(of, key, env)

    def looked_up(self, owner: Ref, key: Any) -> Any:
        """An element of a dictionary."""
        fields = self.heap[owner.id]
        if not _is_key(key):
            return UNKNOWN
        if key not in fields and (CLASS in fields or LOST in fields):
            return UNKNOWN
        if key not in fields:
            raise Stop(f"KeyError: {key!r}")
        return fields[key]

    def _x_f(self, code: Code, env: Env) -> Any:
        return "".join(part if isinstance(part, str) else said(self.value(part, env)) for part in code[1])

    def _x_list_of(self, code: Code, env: Env) -> Any:
        return self.new_list(self._x_comp(code, env))

    def _x_comp(self, code: Code, env: Env) -> Any:
        items = self.elements(self.value(code[3], env))
        if items is None:
            return UNKNOWN
        inner, found = dict(env), []
        for item in items:
            self.store(code[2], item, inner)
            wanted = [self.truth(self.value(condition, inner)) for condition in code[4]]
            if None in wanted:
                return UNKNOWN
            if all(wanted):
                found.append(self.value(code[1], inner))
        return tuple(found)
