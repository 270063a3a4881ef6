"""Applying the edits of a patch to a file's bytes."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from typing import cast

import libcst as cst

from quantctl.errors import QuantctlError
from quantctl.patches.patch import Edit, Either
from quantctl.tree.edit.nearest import nearest
from quantctl.tree.edit.visitors import VISITORS
from quantctl.tree.source import Source


class AnchorError(QuantctlError):
    """An anchor does not match the expected number of times: the file is not what the patch was written for."""

    def __init__(
        self, file: str, anchor: str, expected: Sequence[int], found: int, edits: Sequence[Edit] = (), near: str = ""
    ) -> None:
        wanted = " or ".join(map(str, expected))
        where = f"; {'there is' if found else 'nearest is'} {near}" if near else ""
        super().__init__(
            f"{file}: {anchor}: expected {wanted}, found {found}{where}",
            "this release or fork differs from those that quantctl knows; nothing was changed",
        )
        self.file, self.anchor, self.expected, self.found, self.edits = file, anchor, expected, found, edits

    def with_line(self, source: Source) -> AnchorError:
        """The same, with the line and code of what was found or comes nearest in the file."""
        near = nearest(source, self.edits) if self.edits else ""
        return AnchorError(self.file, self.anchor, self.expected, self.found, self.edits, near)


def _parse(text: str, file: str) -> cst.Module:
    """The concrete syntax tree. Raises QuantctlError if the text would not come back as it is."""
    try:
        module = cst.parse_module(text)
    except (cst.ParserSyntaxError, SyntaxError, ValueError, RecursionError) as error:
        raise QuantctlError(
            f"{file} cannot be parsed: {error}", "repair the file, or bring it back with git"
        ) from error
    if module.code != text:
        raise QuantctlError(
            f"{file} does not survive parsing byte for byte (form feeds or lone carriage returns?)",
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

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> bool:
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
        raise AnchorError(file, f"function `{edit.scope}`", (1,), scope.functions, (edit,))
    if scope.visitor.matches not in edit.count:
        raise AnchorError(file, str(edit), edit.count, scope.visitor.matches, (edit,))
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
        raise AnchorError(file, str(choice), (1,), found, choice.edits)
    return fitting[0]


def _with_edits(source: Source, edits: Sequence[Edit | Either]) -> bytes:
    """The file with all edits made. Only the top-level functions and classes that they name are taken apart."""
    names = {edit.scope.partition(".")[0] for choice in edits for edit in _alternatives(choice)}
    spans = [
        source.lines_of(node)
        for node in source.module.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names
    ]
    module = _parse("".join(source.text(*span) for span in spans), source.name)
    for edit in edits:
        if isinstance(edit, Either):
            module = _apply_one_of(module, edit, source.name)
        else:
            module = _apply(module, edit, source.name)
    raw = source.raw
    for (start, end), node in reversed(list(zip(spans, module.body, strict=True))):
        code = module.code_for_node(node)
        if not source.raw[start:end].endswith((b"\n", b"\r")):
            code = code.rstrip("\r\n")
        raw = raw[:start] + code.encode(source.encoding) + raw[end:]
    return raw


def _alternatives(choice: Edit | Either) -> tuple[Edit, ...]:
    return choice.edits if isinstance(choice, Either) else (choice,)


def _add_header(source: Source, header: str) -> bytes:
    """Put `header` behind the last import of the block at the top of the file."""
    imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in source.module.body]
    if True not in imports:
        raise AnchorError(source.name, "an import at the top of the file", (1,), 0)
    first = imports.index(True)
    last = imports.index(False, first) - 1 if False in imports[first:] else len(imports) - 1
    _, end = source.lines_of(source.module.body[last])
    line = source.raw[:end]
    newline = next((ending for ending in (b"\r\n", b"\n", b"\r") if line.endswith(ending)), b"")
    inserted = ["", *textwrap.dedent(header).strip("\n").splitlines(), ""]
    return line + (newline or b"\n").join(text.encode() for text in inserted) + source.raw[end:]


def insert(raw: bytes, file: str, edits: Sequence[Edit | Either], header: str = "") -> bytes:
    """The file with all edits made and `header` (comment lines, then assignments) below its imports.

    `file` appears in errors. Raises AnchorError when an anchor does not match as often as expected, and QuantctlError
    when what is to be edited does not round-trip.
    """
    source = Source(raw, file)
    try:
        changed = _with_edits(source, edits)
    except AnchorError as refusal:
        raise refusal.with_line(source) from None
    if header:
        changed = _add_header(Source(changed, file), header)
    Source(changed, file).compile()
    return changed
