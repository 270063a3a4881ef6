"""Building the nodes that an edit inserts, in the layout of their neighbours."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import libcst as cst

from quantctl.tree.edit.pattern import Bindings, match

ORIGINAL = "ORIGINAL_STATEMENT"
"""In a template, the statement that the edit was anchored on."""

Item = TypeVar("Item", bound=cst.CSTNode)
_COMMA = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))


class _Layout(cst.CSTTransformer):
    """Inserted lines end as their neighbours do, whatever newline the file uses most."""

    def __init__(self, newline: str, original: cst.SimpleStatementLine) -> None:
        self.newline = newline
        self.original = original.with_changes(leading_lines=())

    def leave_Newline(self, original_node: cst.Newline, updated_node: cst.Newline) -> cst.Newline:
        return updated_node.with_changes(value=self.newline)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine:
        return self.original if match(ORIGINAL.lower(), updated_node) is not None else updated_node


def _fill(code: str, bindings: Bindings) -> str:
    names = re.compile(r"\b(" + "|".join(map(re.escape, bindings)) + r")\b") if bindings else None
    return names.sub(lambda found: bindings[found.group()], code) if names else code


def newline_of(statement: cst.CSTNode, module: cst.Module) -> str:
    trailing = getattr(statement, "trailing_whitespace", None)
    return (trailing.newline.value if trailing is not None else None) or module.default_newline


def build(
    code: str, bindings: Bindings, neighbour: cst.SimpleStatementLine, module: cst.Module
) -> list[cst.BaseStatement]:
    """`code` as statements, wildcards replaced by what they stand for and ORIGINAL by `neighbour` itself."""
    text = _fill(textwrap.dedent(code).strip("\n"), bindings).replace(ORIGINAL, ORIGINAL.lower())
    layout = _Layout(newline_of(neighbour, module), neighbour)
    body = cst.parse_module(text + "\n", config=module.config_for_parsing).body
    return [cast(cst.BaseStatement, node.visit(layout)) for node in body]


def append(items: Sequence[Item], new: Item) -> list[Item]:
    """`items` with `new` behind them, laid out as the list already is (one a line, trailing comma or not).

    Comments stay where they are: behind the last item, and not copied with the layout of the one before.
    """
    last: Any = items[-1]
    between = cast(Any, items[-2]).comma if len(items) > 1 else _COMMA
    for space in ("whitespace_after_arg", "whitespace_after_param"):
        # what stands between the last item and the bracket, where there is no trailing comma to hold it
        if hasattr(last, space):
            new = cast(Any, new).with_changes(**{space: getattr(last, space)})
            last = last.with_changes(**{space: cst.SimpleWhitespace("")})
    after = last.comma
    if not isinstance(between.whitespace_after, cst.ParenthesizedWhitespace):
        return [*items[:-1], last.with_changes(comma=_COMMA), cast(Any, new).with_changes(comma=after)]
    bare = between.whitespace_after.first_line.with_changes(whitespace=cst.SimpleWhitespace(""), comment=None)
    own_line = bare
    if isinstance(after, cst.Comma) and isinstance(after.whitespace_after, cst.ParenthesizedWhitespace):
        own_line = after.whitespace_after.first_line
        after = after.with_changes(whitespace_after=after.whitespace_after.with_changes(first_line=bare))
    layout = between.whitespace_after.with_changes(first_line=own_line, empty_lines=())
    return [
        *items[:-1],
        last.with_changes(comma=between.with_changes(whitespace_after=layout)),
        cast(Any, new).with_changes(comma=after),
    ]
