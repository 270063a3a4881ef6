"""Expressions of a table of checks, with what is known of a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantctl.lint.start.values import UNKNOWN, Lambda, Named, Ref, Stop, compare, compute, truth

Code = list[Any]


Env = dict[str, Any]


MOST_STEPS = 100_000


_OWN = ("int", "float", "str", "bool", "list", "tuple", "dict", "set", "len", "any", "all", "isinstance", "getattr",
        "hasattr", "setattr", "max", "min", "sum", "abs", "range", "sorted", "prod", "super")  # fmt: skip


class GaveUp(Exception):
    """The table asks for more steps than are taken."""


def _nobody_knows(code: Code, env: Env) -> Any:
    return UNKNOWN


def _said(value: Any) -> str:
    return "…" if value is UNKNOWN or isinstance(value, Ref) else value.name if isinstance(value, Named) else str(value)


_DTYPES = ("float32", "float", "bfloat16", "float16", "half", "uint8", "dtype")


class Expressions:
    """The part of a run that knows values."""

    table: Mapping[str, Any]
    heap: dict[int, dict[str, Any]]
    steps: int

    def new(self, fields: dict[str, Any]) -> Ref:
        self.heap[len(self.heap)] = fields
        return Ref(len(self.heap) - 1)

    def store(self, target: Code, value: Any, env: Env) -> None:
        if target[0] == "n":
            env[target[1]] = value
        elif target[0] == "a":
            owner = self.value(target[1], env)
            if isinstance(owner, Ref):
                self.heap[owner.id][target[2]] = value
        elif target[0] == "idx":
            owner, key = self.value(target[1], env), self.value(target[2], env)
            if isinstance(owner, Ref) and isinstance(key, str):
                self.heap[owner.id][key] = value
        elif target[0] == "list":
            for index, one in enumerate(target[1:]):
                fits = isinstance(value, tuple) and len(value) == len(target) - 1
                self.store(one, value[index] if fits else UNKNOWN, env)

    def value(self, code: Code, env: Env) -> Any:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise GaveUp
        return getattr(self, f"_x_{code[0]}", _nobody_knows)(code, env)

    def _x_c(self, code: Code, env: Env) -> Any:
        return code[1]

    def _x_n(self, code: Code, env: Env) -> Any:
        if code[1] in env:
            return env[code[1]]
        named = code[1] in _OWN or code[1] in self.table["classes"] or code[1] in self.table["imported"]
        return Named(code[1]) if named else UNKNOWN

    def _x_a(self, code: Code, env: Env) -> Any:
        owner = self.value(code[1], env)
        if isinstance(owner, Ref):
            return self.heap[owner.id].get(code[2], UNKNOWN)
        if code[1] == ["n", "torch"] and "torch" not in env and code[2] in _DTYPES:
            return Named(code[2])
        # CudaGraphScope.full_iteration, AttnBackend.local: a name that no variable has, with a capital
        if owner is UNKNOWN and code[1][0] == "n" and code[1][1][:1].isupper() and code[1][1] not in env:
            return Named(code[2])
        if isinstance(owner, Named) and code[2] in ("name", "value"):
            return owner.name
        return UNKNOWN

    def _x_lambda(self, code: Code, env: Env) -> Any:
        return Lambda(tuple(code[1]), code[2])

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
            answer = truth(last)
            if answer is decides:
                return last if not unknown else decides
            unknown = unknown or answer is None
        return UNKNOWN if unknown else last

    def _x_not(self, code: Code, env: Env) -> Any:
        answer = truth(self.value(code[1], env))
        return UNKNOWN if answer is None else not answer

    def _x_neg(self, code: Code, env: Env) -> Any:
        value = self.value(code[1], env)
        return -value if isinstance(value, (int, float)) else UNKNOWN

    def _x_cmp(self, code: Code, env: Env) -> Any:
        left, unknown = self.value(code[1], env), False
        for kind, part in code[2]:
            right = self.value(part, env)
            answer = compare(kind, left, right)
            if answer is False:
                return False
            unknown = unknown or answer is None
            left = right
        return UNKNOWN if unknown else True

    def _x_bin(self, code: Code, env: Env) -> Any:
        return compute(code[1], self.value(code[2], env), self.value(code[3], env))

    def _x_if(self, code: Code, env: Env) -> Any:
        known = truth(self.value(code[1], env))
        return UNKNOWN if known is None else self.value(code[2] if known else code[3], env)

    def _x_list(self, code: Code, env: Env) -> Any:
        return tuple(self.value(part, env) for part in code[1:])

    def _x_dict(self, code: Code, env: Env) -> Any:
        pairs = [(self.value(key, env), self.value(part, env)) for key, part in code[1]]
        if any(not isinstance(key, (str, int, bool)) for key, _ in pairs):
            return UNKNOWN
        return self.new(dict(pairs))

    def _x_idx(self, code: Code, env: Env) -> Any:
        owner, key = self.value(code[1], env), self.value(code[2], env)
        if isinstance(owner, Ref):
            return self.heap[owner.id].get(key, UNKNOWN) if isinstance(key, str) else UNKNOWN
        if owner is None:
            raise Stop("TypeError: a value that it takes an element of is None")
        fits = isinstance(owner, (tuple, str)) and isinstance(key, int) and -len(owner) <= key < len(owner)
        return owner[key] if fits else UNKNOWN

    def _x_f(self, code: Code, env: Env) -> Any:
        return "".join(part if isinstance(part, str) else _said(self.value(part, env)) for part in code[1])

    def _x_comp(self, code: Code, env: Env) -> Any:
        items = self.value(code[3], env)
        if not isinstance(items, tuple):
            return UNKNOWN
        inner, found = dict(env), []
        for item in items:
            self.store(code[2], item, inner)
            wanted = [truth(self.value(condition, inner)) for condition in code[4]]
            if None in wanted:
                return UNKNOWN
            if all(wanted):
                found.append(self.value(code[1], inner))
        return tuple(found)
