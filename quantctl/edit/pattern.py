"""Statements compared by structure: formatting and comments do not matter, names in capitals stand for any expression.

match("output = torch.matmul(X, weight.t())", statement)  ->  {"X": "total_input"}
"""

from __future__ import annotations

import ast
import textwrap
from functools import lru_cache

import libcst as cst

Bindings = dict[str, str]
"""What each wildcard of a pattern stands for, as source text."""

_IGNORED_FIELDS = ("ctx", "type_comment", "kind")


def _unify(pattern: object, candidate: object, bindings: Bindings) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id.isupper():
        if not isinstance(candidate, ast.expr):
            return False
        text = ast.unparse(candidate)
        return bindings.setdefault(pattern.id, text) == text
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(candidate) and all(
            _unify(getattr(pattern, field), getattr(candidate, field), bindings)
            for field in pattern._fields
            if field not in _IGNORED_FIELDS
        )
    if isinstance(pattern, list):
        return (
            isinstance(candidate, list)
            and len(pattern) == len(candidate)
            and all(_unify(*pair, bindings) for pair in zip(pattern, candidate, strict=True))
        )
    return pattern == candidate


@lru_cache(maxsize=256)
def _parse(code: str) -> ast.stmt | None:
    try:
        (statement,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        return None
    return statement


@lru_cache(maxsize=4096)  # nodes are immutable, and most statements meet several patterns
def code_of(node: cst.CSTNode) -> str:
    return cst.Module(body=[]).code_for_node(node)


def match(pattern: str, statement: cst.SimpleStatementLine) -> Bindings | None:
    """The bindings under which `statement` has the structure of `pattern`, or None."""
    candidate = _parse(textwrap.dedent(code_of(statement)).strip())
    bindings: Bindings = {}
    return bindings if candidate is not None and _unify(_parse(pattern), candidate, bindings) else None
