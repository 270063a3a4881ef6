"""The variables of a module that its functions change.

A function that declares `global _GROUP` finds in it what the module gave it, as long as nobody called the function and
no other one can have given it anything else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from quantctl.lint.start.syntax import Code, written


def declared(function: ast.FunctionDef) -> Iterator[str]:
    """The names that a function declares to be its module's."""
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            yield from node.names


@lru_cache(maxsize=64)
def at_first(module: ast.Module | None, function: str) -> dict[str, Code]:
    """The names that the module's `function` declares global, with what each holds before its first call.

    Left out are those that do not begin as a constant, and those that another function gives something else: it may
    have been called before.
    """
    if module is None:
        return {}
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    own = {name for node in functions if node.name == function for name in declared(node)}
    outside: dict[str, list[str]] = {}
    for name, value in _given(module.body):
        outside.setdefault(name, []).append(value)
    elsewhere: dict[str, set[str]] = {}
    for node in functions:
        names = set(declared(node)) if node.name != function else set()
        for name, value in _given(node.body):
            if name in names:
                elsewhere.setdefault(name, set()).add(value)
    return {
        name: written(values[0])
        for name, values in outside.items()
        if name in own and len(values) == 1 and values[0] and elsewhere.get(name, set()) <= {values[0]}
    }


def _given(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The names that statements assign, each with the constant that it gets, written; "" for anything else."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        plain = isinstance(node, (ast.Assign, ast.AnnAssign)) and all(isinstance(one, ast.Name) for one in targets)
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) and plain else None
        said = ast.unparse(value) if isinstance(value, ast.Constant) else ""
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield from ((one.id, said) for one in ast.walk(node) if isinstance(one, ast.Name) and _is_stored(one))


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, (ast.Store, ast.Del))
