"""Where an anchor that does not match may have been meant: the line and code that a refusal shows."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence

from quantctl.patches.patch import Edit, Kind
from quantctl.stock.products import products_in
from quantctl.stock.structure import unify
from quantctl.stock.unpatch import functions_of
from quantctl.tree.source import Source

_SHOWN = 160
"""Characters of code."""


def nearest(source: Source, edits: Sequence[Edit]) -> str:
    """`line 204: code` of what is most like the anchors of `edits`, or of every match where there are too many."""
    functions = list(functions_of(source.module))
    here = [node for name, node in functions if name == edits[0].scope]
    if len(here) != 1:
        return "; ".join(map(_shown, here)) or _shown(_most_alike(edits[0].scope, functions))
    (function,) = here
    if edits[0].kind in (Kind.PRODUCTS, Kind.PRODUCTS_BEFORE):
        return "; ".join(map(_shown, products_in(function))) or _shown(function)
    statements = list(_statements(function.body))
    matches = [node for node in statements if any(_is(edit.anchor, node) for edit in edits)]
    if len(matches) > 1:
        return "; ".join(map(_shown, matches))
    texts = [(ast.unparse(node), node) for node in statements]
    best = max(texts, key=lambda text: max(_likeness(text[0], edit.anchor) for edit in edits), default=(None, function))
    return _shown(best[1])


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        for part in ast.walk(node):
            if isinstance(part, ast.stmt) and not hasattr(part, "body"):
                yield part


def _is(anchor: str, statement: ast.stmt) -> bool:
    try:
        return unify(ast.parse(anchor).body, [statement], {})
    except SyntaxError:
        return False


def _likeness(text: str, anchor: str) -> float:
    return difflib.SequenceMatcher(None, text, anchor, autojunk=False).ratio()


def _most_alike(scope: str, functions: Sequence[tuple[str, ast.FunctionDef]]) -> ast.AST | None:
    found = max(functions, key=lambda item: _likeness(item[0], scope), default=None)
    return None if found is None else found[1]


def _shown(node: ast.AST | None) -> str:
    if node is None:
        return ""
    code = ast.unparse(node).partition("\n")[0] if isinstance(node, ast.FunctionDef) else ast.unparse(node)
    decorators = getattr(node, "decorator_list", [])
    if decorators:
        code = f"def {getattr(node, 'name', '')}(...)"
    return f"line {getattr(node, 'lineno', 1)}: `{code if len(code) <= _SHOWN else code[:_SHOWN] + ' ...'}`"
