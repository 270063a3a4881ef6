"""Statements compared by structure: formatting and comments do not matter, names in capitals stand for any expression.

match("output = torch.matmul(X, weight.t())", statement)  ->  {"X": "total_input"}
"""

from __future__ import annotations

import ast
import textwrap
from functools import lru_cache

import libcst as cst

from quantctl.stock.structure import Bindings, unify


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
    wanted = _parse(pattern)
    if len(statement.body) != 1 or type(statement.body[0]).__name__ != type(wanted).__name__:
        return None  # both libraries call a kind of statement the same, and most are of another kind
    candidate = _parse(textwrap.dedent(code_of(statement)).strip())
    bindings: Bindings = {}
    return bindings if candidate is not None and unify(wanted, candidate, bindings) else None
