"""Statements of a followed program, with what is known of a command.

Where a condition is not known, both ways are followed, and what differs behind them is not known. A check counts where
it fails on every way that is left.
"""

from __future__ import annotations

from typing import Any

from quantctl.lint.start.expressions import MOST_STEPS, Expressions, GaveUp
from quantctl.lint.start.heap import CLASS, SHARED, Env, join
from quantctl.lint.start.shown import shown
from quantctl.lint.start.source import Function, Tree
from quantctl.lint.start.syntax import Code
from quantctl.lint.start.values import EXITS, LONGEST, UNKNOWN, Ref, Stop

_DEEPEST = 12
Store = dict[Any, dict[Any, Any]]
"""A heap at one moment."""


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Left(Exception):
    """`break` or `continue`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _MayLeave(Exception):
    """Nobody knows whether a loop goes on."""


class Steps(Expressions):
    """One run through a tree's functions."""

    def __init__(self, tree: Tree, world_size: int | None) -> None:
        self.tree = tree
        self.world_size = UNKNOWN if world_size is None else world_size
        self.heap: Store = {}
        self.steps = 0
        self.early: list[list[tuple[Any, Store]]] = [[]]
        """For each call that is being followed the ways on which it may have returned: the value and the heap."""

    def block(self, body: list[Code], env: Env) -> None:
        for code in body:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise GaveUp
            getattr(self, f"_{code[0]}")(code, env)

    # ---- checks ----

    def _assert(self, code: Code, env: Env) -> None:
        if self.truth(self.value(code[1], env)) is False:
            said = self.value(code[2], env)
            raise Stop(said if isinstance(said, str) and said else f"assert {shown(code[1])}", code[3])

    def _raise(self, code: Code, env: Env) -> None:
        words = code[1][2] if code[1][0] == "call" else []
        said = self.value(words[0], env) if words else ""
        raise Stop(said if isinstance(said, str) and said else "it raises an exception", code[2])

    # ---- branches ----

    def _snapshot(self) -> Store:
        return {key: dict(fields) for key, fields in self.heap.items()}

    def _if(self, code: Code, env: Env) -> None:
        known = self.truth(self.value(code[1], env))
        if known is not None:
            try:
                self.block(code[2] if known else code[3], env)
            except Stop as stop:
                raise Stop(f"it exits at {shown(code[1])}", stop.line) if str(stop) == EXITS else stop from None
            return
        before = dict(env), self._snapshot()
        stopped: list[Stop] = []
        ways: list[tuple[Env, Store, str]] = []
        count = len(self.early[-1])
        for index, body in enumerate((code[2], code[3])):
            if index:
                env.clear()
                env.update(before[0])
                self.heap = before[1]
            leaves = ""
            try:
                self.block(body, env)
            except Stop as stop:
                stopped.append(stop)
                continue
            except _Returned as back:
                self.early[-1].append((back.value, self.heap))
                continue
            except _Left as left:
                leaves = left.kind
            ways.append((dict(env), self.heap, leaves))
        if len(stopped) == 2:
            raise stopped[0]
        if not ways:
            raise self._back()
        env.clear()
        env.update(ways[0][0])
        self.heap = ways[0][1]
        for other, heap, _ in ways[1:]:
            join(env, other)
            self.join(self.heap, heap)
        kinds = {leaves for _, _, leaves in ways}
        if kinds != {""}:
            raise _Left(kinds.pop()) if len(kinds) == 1 and len(self.early[-1]) == count else _MayLeave

    def _back(self) -> _Returned:
        """The last of the ways on which the function returns."""
        value, self.heap = self.early[-1].pop()
        return _Returned(value)

    # ---- what changes ----

    def _set(self, code: Code, env: Env) -> None:
        self.store(code[1], self.value(code[2], env), env)

    def _do(self, code: Code, env: Env) -> None:
        self.value(code[1], env)

    def _del(self, code: Code, env: Env) -> None:
        target = code[1]
        owner = self.value(target[1], env) if target[0] == "a" else None
        if isinstance(owner, Ref):
            self.heap[owner.id].pop(target[2], None)

    def _ret(self, code: Code, env: Env) -> None:
        raise _Returned(self.value(code[1], env))

    def _forget(self, code: Code, env: Env) -> None:
        for target in code[1]:
            now = self.value(target, env) if target[0] in ("n", "a") else UNKNOWN
            if isinstance(now, Ref) and CLASS not in self.heap[now.id]:
                self.lose(now)
            self.store(target, UNKNOWN, env)

    def _maybe(self, code: Code, env: Env) -> None:
        self.early[-1].append((UNKNOWN, self._snapshot()))

    # ---- loops ----

    def _leave(self, code: Code, env: Env) -> None:
        raise _Left(code[1])

    def _for(self, code: Code, env: Env) -> None:
        _, target, row, body, otherwise, forgotten, returns = code
        items = self.elements(self.value(row, env))
        if items is None or len(items) > LONGEST:
            self._unclear(forgotten, returns, env)
            return
        for item in items:
            self.store(target, item, env)
            try:
                self.block(body, env)
            except _Left as left:
                if left.kind == "Break":
                    return
            except _MayLeave:
                self._unclear(forgotten, returns, env)
                return
        self.block(otherwise, env)

    def _unclear(self, forgotten: list[Code], returns: bool, env: Env) -> None:
        self._forget(["forget", forgotten], env)
        if returns:
            self._maybe(["maybe"], env)

    # ---- functions ----

    def run(self, function: Function, words: list[Any], named: dict[str, Any]) -> Any:
        """Call a function of the tree."""
        if len(self.early) > _DEEPEST:
            for word in (*words, *named.values()):
                self.lose(word)
            self.lose_shared()
            return UNKNOWN
        env: Env = {"__module__": function.module, SHARED: function.shared}
        if len(self.early) == 1:
            at_first = self.tree.at_first(function)
            self.heap[function.module] = {name: self.value(code, {}) for name, code in at_first.items()}
        defaults = {name: self.value(default, env) for name, default in function.defaults.items()}
        env |= dict.fromkeys(function.names, UNKNOWN) | defaults
        env |= dict(zip(function.names, words, strict=False)) | named
        value = None
        self.early.append([])
        try:
            self.block(function.body, env)
        except _Returned as back:
            value = back.value
        except Stop as stop:
            stop.where = stop.where or function.place
            if not self.early[-1]:
                raise
            value = self._back().value
        finally:
            early = self.early.pop()
        for other, heap in early:
            value = value if type(value) is type(other) and value == other else UNKNOWN
            self.join(self.heap, heap)
        return value
