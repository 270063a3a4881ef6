"""Applying the edits of a patch to a file's bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import cast

import libcst as cst

from quantctl.edit.code import build, newline_of
from quantctl.edit.visitors import VISITORS
from quantctl.errors import QuantctlError
from quantctl.patches.patch import Edit, Either
from quantctl.source import Source


class AnchorError(QuantctlError):
    """An anchor does not match the expected number of times: the file is not what the patch was written for."""

    def __init__(self, file: str, anchor: str, expected: Sequence[int], found: int) -> None:
        wanted = " or ".join(map(str, expected))
        super().__init__(
            f"{file}: {anchor}: expected {wanted}, found {found}",
            "this release or fork differs from those that quantctl knows; nothing was changed",
        )
        self.anchor = anchor
        self.found = found


def parse(raw: bytes, file: str) -> cst.Module:
    """The concrete syntax tree. Raises QuantctlError if the file would not come back byte for byte."""
    try:
        module = cst.parse_module(raw)
    except (cst.ParserSyntaxError, SyntaxError, ValueError, LookupError, RecursionError) as error:
        raise QuantctlError(
            f"{file} cannot be parsed: {error}", "repair the file, or bring it back with git"
        ) from error
    if module.bytes != raw:
        raise QuantctlError(
            f"{file} does not survive parsing byte for byte (a form feed at its start or lone carriage returns?)",
            "normalize its line ends first; nothing was changed",
        )
    return module


class _InScope(cst.CSTTransformer):
    """Applies a visitor to the functions of one dotted name and leaves everything else alone."""

    def __init__(self, edit: Edit, module: cst.Module) -> None:
        super().__init__()
        self.scope = edit.scope.split(".")
        self.visitor = VISITORS[edit.kind](edit, module)
        self.path: list[str] = []
        self.functions = 0

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self.path.append(node.name.value)
        return self.path == self.scope[: len(self.path)]

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        self.path.pop()
        return updated_node

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        if [*self.path, original_node.name.value] != self.scope:
            return updated_node
        self.functions += 1
        return cast(cst.FunctionDef, updated_node.visit(self.visitor))


def _apply(module: cst.Module, edit: Edit, file: str) -> cst.Module:
    scope = _InScope(edit, module)
    changed = module.visit(scope)
    if scope.functions != 1:
        raise AnchorError(file, f"function `{edit.scope}`", (1,), scope.functions)
    if scope.visitor.matches not in edit.count:
        raise AnchorError(file, str(edit), edit.count, scope.visitor.matches)
    return changed


def _apply_one_of(module: cst.Module, choice: Either, file: str) -> cst.Module:
    fitting: list[cst.Module] = []
    refusals: list[AnchorError] = []
    for edit in choice.edits:
        try:
            fitting.append(_apply(module, edit, file))
        except AnchorError as refusal:
            refusals.append(refusal)
    if len({refusal.anchor for refusal in refusals}) == 1 < len(refusals):
        raise refusals[0]  # none of them finds the function
    found = len(fitting) + sum(refusal.found for refusal in refusals)
    if found != 1:
        raise AnchorError(file, str(choice), (1,), found)
    return fitting[0]


def _is_import(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and isinstance(
        statement.body[0], (cst.Import, cst.ImportFrom)
    )


def _add_header(module: cst.Module, header: str, file: str) -> cst.Module:
    """Put `header` behind the last import of the block at the top of the file."""
    body = list(module.body)
    first = next((index for index, node in enumerate(body) if _is_import(node)), None)
    if first is None:
        raise AnchorError(file, "an import at the top of the file", (1,), 0)
    last = first
    while last + 1 < len(body) and _is_import(body[last + 1]):
        last += 1
    neighbour = cast(cst.SimpleStatementLine, body[last])
    newline = cst.Newline().with_changes(value=newline_of(neighbour, module))
    comments, statements = _split_comment(header)
    # parsed on its own, a leading comment would belong to the module and not to the statement below it
    new = build(statements, {}, neighbour, module)
    lines = [
        cst.EmptyLine(indent=False, comment=cst.Comment(line) if line else None, newline=newline) for line in comments
    ]
    new[0] = new[0].with_changes(leading_lines=lines)
    return module.with_changes(body=[*body[: last + 1], *new, *body[last + 1 :]])


def _split_comment(header: str) -> tuple[list[str | None], str]:
    """A blank line and the comment's lines; the statements."""
    lines = textwrap.dedent(header).strip("\n").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return [None, *comments], "\n".join(lines[len(comments) :])


def insert(raw: bytes, file: str, edits: Sequence[Edit | Either], header: str = "") -> bytes:
    """The file with all edits made and `header` (comment lines, then assignments) below its imports.

    `file` appears in errors. Raises AnchorError when an anchor does not match as often as expected, and QuantctlError
    when the file does not round-trip.
    """
    module = parse(raw, file)
    for edit in edits:
        module = _apply_one_of(module, edit, file) if isinstance(edit, Either) else _apply(module, edit, file)
    if header:
        module = _add_header(module, header, file)
    changed = module.bytes
    Source(changed, file).compile()
    return changed
