"""Which products a variable decides, followed through the source of one module.

Reaching definitions over statements: a branch joins what both sides say, a loop runs until nothing changes (twice), a
nested function sees whatever the enclosing scopes assign. A product is decided by a variable if it stands in a branch
of a test on it or takes it as an argument; what such a branch assigns depends on the variable too, until a product has
consumed it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quantctl.stock.products import (
    CALLED,
    FOR_EFFECT,
    asked_for,
    called,
    chain_of,
    has_product,
    key_of,
    named,
    strings,
    targets_of,
)

Group = frozenset["Definition"]
"""The definitions of which one mention of a variable sees one: several if a branch assigns it again."""
Groups = frozenset[Group]
Env = dict[str, Groups]
"""By name (`x` or `x.y`), what its value depends on."""


_TRY = (ast.Try, getattr(ast, "TryStar", ast.Try))  # except* came with Python 3.11


@dataclass(frozen=True)
class _Guard:
    """A test that code stands under, or the arguments of a product."""

    groups: Groups
    formats: frozenset[str]
    plain: bool
    """It takes no other values than `formats`."""
    rejects: bool = False
    through: bool = False
    """Arguments that depend on the value only through names assigned in branches of tests on it."""


@dataclass(eq=False)
class Definition:
    """One assignment of a followed variable, and what it was found to decide."""

    variable: str
    line: int
    value: ast.Constant | None
    """The string literal; None if it is none."""
    reason: str | None = None
    """Why its value cannot be followed."""
    products: set[str] = field(default_factory=set)
    """What it decides: baddbmm, bmm, matmul."""
    uses: set[int] = field(default_factory=set)
    """Its readers, by identity."""
    labels: set[int] = field(default_factory=set)
    """Those of them that only hand it to a call whose result is dropped, such as a logger."""
    formats: set[str] = field(default_factory=set)
    """Values that the tests in front of its products name."""
    open: bool = False
    """Its products take other values than those too: they see the value itself, or the test is of another form."""
    rejects: bool = False
    """The last branch of a test raises, so values that no branch names stop the run."""
    rivals: set[int] = field(default_factory=set)
    """Lines of other assignments that may hold where this one is read."""
    guards: set[_Guard] = field(default_factory=set)
    """Tests on it under which names are assigned: their formats count once a product takes such a name."""


class Flow:
    """Follows `definitions` (by identity of the assigning statement) through a module and fills them in."""

    def __init__(self, definitions: Mapping[int, Definition]) -> None:
        self.definitions = definitions
        self.variables = {definition.variable for definition in definitions.values()}
        self.scope: Env = {}  # all that this scope and those around it ever assign, for the functions inside
        self.later: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, Env]] = []
        self.dropped: ast.expr | None = None  # the expression whose value nobody takes
        self.results: set[str] = set()  # names that hold a product's result, within one branch
        # names whose value is made of a variable's; others depend on it by the branch that they were assigned in
        self.straight = set(self.variables)
        self.direct = False  # whether one of them was read
        self.decided: set[tuple[int, int]] = set()  # where products stand that a definition decides

    def run(self, module: ast.Module) -> None:
        self.block(module.body, {}, ())
        while self.later:
            self._function(*self.later.pop())

    # names and expressions

    def expression(self, node: ast.AST | None, env: Env, guards: tuple[_Guard, ...]) -> Groups:
        """What the value depends on; products inside are noted under `guards`."""
        if node is None:
            return frozenset()
        if (key := key_of(node)) is not None:
            self._note(self._named(node), guards)
            return self._read(node, key, env)
        if isinstance(node, ast.NamedExpr):
            groups = self.expression(node.value, env, guards)
            self.bind(node.target, node, groups, env, guards)
            return groups
        if isinstance(node, ast.IfExp):
            groups = self.expression(node.test, env, guards)
            inner = self._under([node.test], groups, guards)
            return groups | self.expression(node.body, env, inner) | self.expression(node.orelse, env, inner)
        outside, self.direct = self.direct, False
        groups = frozenset().union(*(self.expression(part, env, guards) for part in ast.iter_child_nodes(node)))
        kind = called(node, FOR_EFFECT if node is self.dropped else CALLED)
        argument = _Guard(groups, frozenset(), plain=not self.direct, through=not self.direct)
        self.direct = outside or (self.direct and kind is None)
        if kind is not None:
            self._note(kind, (*guards, argument))
            if any(guard.groups for guard in (*guards, argument)):
                self.decided.add((getattr(node, "lineno", 0), getattr(node, "col_offset", 0)))
            return frozenset()
        if isinstance(node, (ast.Call, ast.Subscript)) and groups:
            for part in ast.walk(node):  # a table of products, indexed by the value
                self._note(self._named(part), (argument,))
        return groups

    def _read(self, node: ast.AST, key: str, env: Env) -> Groups:
        groups = env.get(key, frozenset())
        if not groups and isinstance(node, ast.Attribute):
            return self._read(node.value, key.rpartition(".")[0], env)
        self.direct |= bool(groups) and key in self.straight
        for group in groups:
            for definition in group:
                definition.uses.add(id(node))
                if self.dropped is not None:
                    definition.labels.add(id(node))
        return groups

    def _named(self, node: ast.AST) -> str | None:
        key = key_of(node)
        return None if key is None or key in self.variables else named(node)

    def _under(
        self, tests: list[ast.expr], groups: Groups, guards: tuple[_Guard, ...], rejects: bool = False
    ) -> tuple[_Guard, ...]:
        asked = [asked_for(test) for test in tests]
        formats = frozenset().union(*(formats for formats, _ in asked))
        return (*guards, _Guard(groups, formats, all(plain for _, plain in asked), rejects)) if groups else guards

    def _note(self, kind: str | None, guards: tuple[_Guard, ...]) -> None:
        if kind is None:
            return
        for guard in guards:
            for group in guard.groups:
                for definition in group:
                    definition.products.add(kind)
                    for test in (guard, *(definition.guards if guard.through else ())):
                        definition.formats |= test.formats
                        definition.open |= not test.plain
                        definition.rejects |= test.rejects
                    definition.rivals |= {other.line for other in group if other is not definition}

    def _merged(self, key: str, left: Env, right: Env) -> Groups:
        groups = left.get(key, frozenset()) | right.get(key, frozenset())
        # one mention of a variable sees one of its definitions; a name that depends on two variables depends on both
        return frozenset({frozenset().union(*groups)}) if key in self.variables and groups else groups

    def _join(self, left: Env | None, right: Env | None) -> Env | None:
        if left is None or right is None:
            return right if left is None else left
        return {key: self._merged(key, left, right) for key in left.keys() | right.keys()}

    def bind(self, target: ast.AST, statement: ast.AST, groups: Groups, env: Env, guards: tuple[_Guard, ...]) -> None:
        """`target` is a definition, or it depends on `groups` and on the tests around it."""
        key = key_of(target)
        if key is None:
            return
        definition = self.definitions.get(id(statement))
        if definition is not None and definition.variable == key:
            groups = frozenset({frozenset({definition})})
        elif guards and self._is_result(getattr(statement, "value", None)):
            self.results.add(key)
            groups = frozenset()
        else:
            own, groups = groups, groups.union(*(guard.groups for guard in guards))
            self._remember(key, bool(own) and self.direct, guards)
        env[key] = groups
        self.scope[key] = self._merged(key, self.scope, {key: groups})

    def _remember(self, key: str, direct: bool, guards: tuple[_Guard, ...]) -> None:
        """How `key` comes to depend on variables: by its value, by the tests around its assignment."""
        for guard in guards:
            for definition in frozenset().union(*guard.groups):
                definition.guards.add(guard)
        if direct:
            self.straight.add(key)

    def _is_result(self, value: ast.AST | None) -> bool:
        return value is not None and (
            has_product(value) or any(key_of(part) in self.results for part in ast.walk(value))
        )

    # statements

    def block(self, statements: Iterable[ast.stmt], env: Env | None, guards: tuple[_Guard, ...]) -> Env | None:
        """What the names hold behind the statements; None if control does not get there."""
        for statement in statements:
            if env is None:
                return None
            env = self.statement(statement, env, guards)
        return env

    def _branch(self, statements: Iterable[ast.stmt], env: Env, guards: tuple[_Guard, ...]) -> Env | None:
        outside, self.results = self.results, set(self.results)
        after = self.block(statements, dict(env), guards)
        self.results = outside
        return after

    def statement(self, node: ast.stmt, env: Env, guards: tuple[_Guard, ...]) -> Env | None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.later.append((node, self.scope))
        elif isinstance(node, ast.ClassDef):
            self._class(node, env, guards)
        elif isinstance(node, ast.If):
            groups = self.expression(node.test, env, guards)
            tests, otherwise = chain_of(node)
            raises = bool(otherwise) and isinstance(otherwise[-1], ast.Raise)
            inner = self._under(tests, groups, guards, raises)
            return self._join(self._branch(node.body, env, inner), self._branch(node.orelse, env, inner))
        elif isinstance(node, ast.Match):
            return self._match(node, env, guards)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            return self._loop(node, env, guards)
        elif isinstance(node, _TRY):
            return self._try(node, env, guards)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                self.expression(item.context_expr, env, guards)
            return self.block(node.body, env, guards)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self.direct = False
            groups = self.expression(node.value, env, guards)
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (part for whole in targets for part in targets_of(whole)):
                if isinstance(node, ast.AugAssign):
                    self.bind(target, node, groups | self.expression(target, env, guards), env, guards)
                elif node.value is not None:
                    self.bind(target, node, groups, env, guards)
        elif isinstance(node, ast.Expr):
            self.dropped = node.value
            self.expression(node.value, env, guards)
            self.dropped = None
        else:
            for part in ast.iter_child_nodes(node):
                self.expression(part, env, guards)
            if isinstance(node, (ast.Return, ast.Raise)):
                return None
        return env

    def _class(self, node: ast.ClassDef, env: Env, guards: tuple[_Guard, ...]) -> None:
        """The names of a class body are not visible in its methods."""
        outside, self.scope = self.scope, {}
        first = len(self.later)
        self.block(node.body, dict(env), guards)
        self.scope = outside
        self.later[first:] = [(function, outside) for function, _ in self.later[first:]]

    def _match(self, node: ast.Match, env: Env, guards: tuple[_Guard, ...]) -> Env | None:
        groups = self.expression(node.subject, env, guards)
        parts = [part for case in node.cases for part in ast.walk(case.pattern)]
        formats = frozenset(text for part in parts if isinstance(part, ast.MatchValue) for text in strings(part.value))
        inner = (*guards, _Guard(groups, formats, bool(formats))) if groups else guards
        after: Env | None = dict(env)
        for case in node.cases:
            after = self._join(after, self._branch(case.body, env, inner))
        return after

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, env: Env, guards: tuple[_Guard, ...]) -> Env | None:
        for _ in range(2):
            inner = guards
            if isinstance(node, ast.While):
                inner = self._under([node.test], self.expression(node.test, env, guards), guards)
            else:
                groups = self.expression(node.iter, env, guards)
                for target in targets_of(node.target):
                    self.bind(target, node, groups, env, guards)
            env = self._join(env, self._branch(node.body, env, inner)) or env
        return self.block(node.orelse, env, guards)

    def _try(self, node: ast.Try, env: Env, guards: tuple[_Guard, ...]) -> Env | None:
        seen: Env | None = dict(env)
        current: Env | None = dict(env)
        for statement in node.body:  # an exception may come from behind any statement
            current = self.block([statement], current, guards)
            seen = self._join(seen, dict(current) if current is not None else None)
        after = self.block(node.orelse, current, guards)
        for handler in node.handlers:
            after = self._join(after, self._branch(handler.body, seen or env, guards))
        return self.block(node.finalbody, after, guards)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Env) -> None:
        """The body on its own; names that it assigns itself hide those of the scopes around it."""
        local = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        local |= {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
        self.scope = {key: groups for key, groups in scope.items() if key not in local}
        self.results = set()
        self.block(node.body, dict(self.scope), ())
