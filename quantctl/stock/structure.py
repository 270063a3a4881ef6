"""Python code compared by structure: formatting, comments, docstrings and annotations do not matter."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator

Bindings = dict[str, str]
"""What each wildcard of a pattern stands for, as source text."""

_IGNORED_FIELDS = ("ctx", "type_comment", "kind", "type_params")


def unify(pattern: object, candidate: object, bindings: Bindings) -> bool:
    """Whether `candidate` has the structure of `pattern`, in which names in capitals stand for any expression."""
    if isinstance(pattern, ast.Name) and pattern.id.isupper():
        if not isinstance(candidate, ast.expr):
            return False
        text = ast.unparse(candidate)
        return bindings.setdefault(pattern.id, text) == text
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(candidate) and all(
            unify(getattr(pattern, field), getattr(candidate, field), bindings)
            for field in pattern._fields
            if field not in _IGNORED_FIELDS
        )
    if isinstance(pattern, list):
        return (
            isinstance(candidate, list)
            and len(pattern) == len(candidate)
            and all(unify(*pair, bindings) for pair in zip(pattern, candidate, strict=True))
        )
    return pattern == candidate


def digest(*nodes: ast.AST) -> str:
    """Equal for code that does the same in the same words, whichever Python parsed it."""
    return hashlib.sha256("\n".join("".join(_shape(node)) for node in nodes).encode()).hexdigest()[:20]


def _shape(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for part in node:
            if not _says_nothing(part):
                yield from _shape(part)
                yield ","
    elif isinstance(node, ast.JoinedStr):  # how its constant parts are cut differs among Pythons
        yield "f("
        for part in node.values:
            yield from [str(part.value)] if isinstance(part, ast.Constant) else _shape(part)
        yield ")"
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from _shape(ast.Assign([node.target], node.value))
    elif isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for field in node._fields:
            value = getattr(node, field, None)
            # None and an empty list are how Pythons differ about what is not there
            if value not in (None, []) and field not in (*_IGNORED_FIELDS, "annotation", "returns"):
                yield f"{field}="
                yield from _shape(value)
        yield ")"
    else:
        yield repr(node)


def _says_nothing(part: object) -> bool:
    """A docstring, or another constant that nobody takes; an annotation without a value."""
    if isinstance(part, ast.AnnAssign):
        return part.value is None
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
