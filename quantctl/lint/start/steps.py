"""Statements of a table of checks, followed with what is known of a command.

Where a condition is not known, both ways are followed, and what differs behind them is not known. A check counts where
it fails on every way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantctl.lint.start.expressions import MOST_STEPS, Code, Env, Expressions, GaveUp
from quantctl.lint.start.values import (
    EXITS,
    UNKNOWN,
    Ref,
    Stop,
    truth,
)

_DEEPEST = 12
_GROWS = ("append", "extend", "pop", "remove", "insert")


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Steps(Expressions):
    """One run through a table's functions."""

    def __init__(self, table: Mapping[str, Any], environment: Mapping[str, str] | None, world_size: int | None) -> None:
        self.table = table
        self.environment = environment
        """The command's variables; None where nobody knows what is set."""
        self.world_size = UNKNOWN if world_size is None else world_size
        self.heap: dict[int, dict[str, Any]] = {}
        self.steps = 0
        self.depth = 0
        self.sure = True
        """False once a way that is not known may have left a function early."""
        self.line: int | None = None

    # ---- statements ----

    def block(self, body: list[Code], env: Env) -> None:
        for code in body:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise GaveUp
            getattr(self, f"_{code[0]}")(code, env)

    def _assert(self, code: Code, env: Env) -> None:
        if truth(self.value(code[1], env)) is False:
            self.line = code[3]
            said = self.value(code[2], env)
            raise Stop(said if isinstance(said, str) and said else f"assert {shown(code[1])}")

    def _raise(self, code: Code, env: Env) -> None:
        self.line = code[2]
        words = code[1][2] if code[1][0] == "call" else []
        said = self.value(words[0], env) if words else ""
        raise Stop(said if isinstance(said, str) and said else "it raises an exception")

    def _if(self, code: Code, env: Env) -> None:
        known = truth(self.value(code[1], env))
        if known is not None:
            try:
                self.block(code[2] if known else code[3], env)
            except Stop as stop:
                raise Stop(f"it exits at {shown(code[1])}") if str(stop) == EXITS else stop from None
            return
        before = dict(env), {key: dict(fields) for key, fields in self.heap.items()}
        stopped: list[Stop] = []
        ways: list[tuple[Env, dict[int, dict[str, Any]]]] = []
        returned: list[_Returned] = []
        for body in (code[2], code[3]):
            env.clear()
            env.update(before[0])
            self.heap = {key: dict(fields) for key, fields in before[1].items()}
            try:
                self.block(body, env)
                ways.append((dict(env), self.heap))
            except Stop as stop:
                stopped.append(stop)
            except _Returned as back:
                returned.append(back)
        if len(stopped) == 2:
            raise stopped[0]
        if not ways:
            if len(returned) == 2:
                raise _Returned(returned[0].value if returned[0].value == returned[1].value else UNKNOWN)
            raise returned[0]
        self.sure = self.sure and not returned
        env.clear()
        env.update(ways[0][0])
        self.heap = ways[0][1]
        for other, heap in ways[1:]:
            _join(env, other)
            for key, fields in heap.items():
                _join(self.heap.setdefault(key, {}), fields)

    def _set(self, code: Code, env: Env) -> None:
        self.store(code[1], self.value(code[2], env), env)

    def _do(self, code: Code, env: Env) -> None:
        called = code[1]
        grows = called[0] == "call" and called[1][0] == "a" and called[1][2] in _GROWS
        if grows and not isinstance(self.value(called[1][1], env), Ref):
            self.store(called[1][1], UNKNOWN, env)
            return
        self.value(called, env)

    def _del(self, code: Code, env: Env) -> None:
        target = code[1]
        owner = self.value(target[1], env) if target[0] == "a" else None
        if isinstance(owner, Ref):
            self.heap[owner.id].pop(target[2], None)

    def _ret(self, code: Code, env: Env) -> None:
        raise _Returned(self.value(code[1], env))

    def _for(self, code: Code, env: Env) -> None:
        items = self.value(code[2], env)
        if not isinstance(items, tuple) or len(items) > 2000:
            if items != {}:
                self._forget(["forget", code[4]], env)
            return
        for item in items:
            self.store(code[1], item, env)
            self.block(code[3], env)

    def _forget(self, code: Code, env: Env) -> None:
        for target in code[1]:
            self.store(json.loads(target), UNKNOWN, env)

    def _maybe(self, code: Code, env: Env) -> None:
        self.sure = False

    # ---- expressions ----

    def run(self, function: Mapping[str, Any], words: list[Any], named: Mapping[str, Any]) -> Any:
        """Call a function of the table."""
        if self.depth >= _DEEPEST:
            return UNKNOWN
        env: Env = {name: self.value(default, {}) for name, default in function["defaults"].items()}
        env |= dict(zip(function["names"], words, strict=False)) | dict(named)
        self.depth += 1
        try:
            self.block(function["body"], env)
        except _Returned as back:
            return back.value
        finally:
            self.depth -= 1
        return None


def _join(one: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name in {*one, *other}:
        here, there = one.get(name, UNKNOWN), other.get(name, UNKNOWN)
        if here is not there and (type(here) is not type(there) or here != there):
            one[name] = UNKNOWN


_SIGNS = {"Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Is": "is", "IsNot": "is not",
          "In": "in", "NotIn": "not in", "Mod": "%", "Add": "+", "Sub": "-", "Mult": "*", "FloorDiv": "//",
          "Div": "/"}  # fmt: skip


def shown(code: Code) -> str:
    """A condition as people read it."""
    kind = code[0]
    if kind == "c":
        return repr(code[1])
    if kind == "n":
        return str(code[1])
    if kind == "a":
        owner = shown(code[1])
        return code[2] if owner in ("args", "self") else f"{owner}.{code[2]}"
    if kind in ("and", "or"):
        return f" {kind} ".join(map(shown, code[1:]))
    if kind == "not":
        return f"not {shown(code[1])}"
    if kind == "cmp":
        return shown(code[1]) + "".join(f" {_SIGNS.get(sign, sign)} {shown(part)}" for sign, part in code[2])
    if kind == "bin":
        return f"{shown(code[2])} {_SIGNS.get(code[1], code[1])} {shown(code[3])}"
    if kind == "list":
        return "[" + ", ".join(map(shown, code[1:])) + "]"
    if kind == "call":
        return f"{shown(code[1])}({', '.join(map(shown, code[2]))})"
    return "…"
