"""Taking quantctl's insertions out of a syntax tree again, as far as they are quantctl's to the letter.

What somebody changed inside the inserted code stays, and makes the function another one than the release's.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from functools import cache

from quantctl.patches.patch import Edit, Either, Kind, Patch
from quantctl.patches.registry import PATCHES
from quantctl.stock.structure import Bindings, unify

_ORIGINAL = "ORIGINAL_STATEMENT"


def edits_of(patch: Patch) -> Iterator[Edit]:
    """Its edits, alternatives one by one, those of earlier editions behind them."""
    for edit in (*patch.edits, *patch.former):
        yield from edit.edits if isinstance(edit, Either) else (edit,)


def scopes_of(patch: Patch) -> frozenset[str]:
    """The functions that it changes, as `Class.method` or `function`."""
    return frozenset(edit.scope for edit in edits_of(patch))


@cache
def _template(code: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(code).strip("\n")).body


def _original_in(template: list[ast.stmt], found: list[ast.stmt], bindings: Bindings) -> tuple[bool, ast.stmt | None]:
    """Whether `found` is what an edit made of its template, and the statement that it was anchored on."""
    if len(template) != len(found):
        return False, None
    original = None
    for pattern, statement in zip(template, found, strict=True):
        fits, inner = _original_at(pattern, statement, bindings)
        if not fits:
            return False, None
        original = inner or original
    return True, original


def _original_at(pattern: ast.stmt, statement: ast.stmt, bindings: Bindings) -> tuple[bool, ast.stmt | None]:
    if isinstance(pattern, ast.Expr) and isinstance(pattern.value, ast.Name) and pattern.value.id == _ORIGINAL:
        return True, statement
    if isinstance(pattern, ast.If) and isinstance(statement, ast.If) and unify(pattern.test, statement.test, bindings):
        fits, original = _original_in(pattern.body, statement.body, bindings)
        also, other = _original_in(pattern.orelse, statement.orelse, bindings)
        return fits and also, original or other
    return unify(pattern, statement, bindings), None


class _Removal(ast.NodeTransformer):
    """Takes the edits of one function out of it."""

    def __init__(self, edits: list[Edit]) -> None:
        self.edits = edits

    def of(self, kind: Kind) -> Iterator[Edit]:
        return (edit for edit in self.edits if edit.kind is kind)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statements := getattr(node, field, None), list):
                setattr(node, field, self._without_insertions(statements))
        return node

    def _without_insertions(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        kept, at = [], 0
        while at < len(statements):
            for edit in self.edits:
                if edit.kind in (Kind.REPLACE, Kind.AFTER, Kind.FIRST, Kind.LAST):
                    template = _template(edit.code)
                    fits, original = _original_in(template, statements[at : at + len(template)], {})
                    if fits:
                        kept += [original] if original else []
                        at += len(template)
                        break
            else:
                kept.append(statements[at])
                at += 1
        return kept

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        for edit in self.of(Kind.LIST_ELEMENT):
            if ast.unparse(node.targets[0]) == edit.anchor and isinstance(node.value, ast.List):
                _drop_last(node.value.elts, edit.code)
        return self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        for edit in self.of(Kind.RETURN_ELEMENT):
            if isinstance(node.value, ast.Tuple):
                _drop_last(node.value.elts, edit.code)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        for edit in self.of(Kind.ARGUMENT):
            if node.keywords and ast.unparse(node.func) == edit.anchor:
                last = node.keywords[-1]
                if f"{last.arg}={ast.unparse(last.value)}" == edit.code:
                    node.keywords.pop()
        return self.generic_visit(node)


def _drop_last(elements: list[ast.expr], code: str) -> None:
    if elements and ast.unparse(elements[-1]) == code:
        elements.pop()


def _drop_parameter(function: ast.FunctionDef, code: str) -> None:
    new = ast.parse(f"def f({code}): pass").body[0]
    assert isinstance(new, ast.FunctionDef)
    arguments = function.args
    if arguments.args and arguments.defaults and arguments.args[-1].arg == new.args.args[0].arg:
        arguments.args.pop()
        arguments.defaults.pop()


def unpatched(raw: bytes, file: str) -> ast.Module:
    """The module without the code that the patches in it have inserted into functions. Raises SyntaxError."""
    module = ast.parse(raw)
    applied = [patch for patch in PATCHES if patch.file == file and patch.mark in raw]
    edits = [edit for patch in applied for edit in edits_of(patch)]
    for scope, function in functions_of(module):
        if here := [edit for edit in edits if edit.scope == scope]:
            for edit in here:
                if edit.kind is Kind.PARAMETER:
                    _drop_parameter(function, edit.code)
            _Removal(here).visit(function)
    return module


def functions_of(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods of the top level, by dotted name, inner classes' included."""
    yield from _functions(module.body, ())


def _functions(body: list[ast.stmt], path: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield ".".join((*path, node.name)), node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, (*path, node.name))
        elif isinstance(node, (ast.If, ast.Try)):
            for inner in (node.body, node.orelse, *(handler.body for handler in getattr(node, "handlers", ()))):
                yield from _functions(inner, path)
