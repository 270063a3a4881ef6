"""Applying the edits of a patch to a file's bytes."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from quantctl.errors import QuantctlError
from quantctl.patches.patch import Edit, Either
from quantctl.stock.unpatch import functions_of
from quantctl.tree.edit.changes import CHANGES
from quantctl.tree.edit.nearest import nearest
from quantctl.tree.source import Source, source_of


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


def _above(text: str, step: int) -> str:
    """Classes of one line each in which a function indented as `text` is stands; `step`: how deep its own body is.

    Its file's step is then theirs, which what is inserted follows.
    """
    depth = len(text) - len(text.lstrip(" \t"))
    if not depth:
        return ""
    steps = range(0, depth, step) if step > 0 and depth % step == 0 and text[:depth].isspace() else (0,)
    return "".join(f"{text[:place]}class _:\n" for place in steps)


@dataclass(frozen=True)
class _Function:
    """One function of a file as a syntax tree of its own, under classes of one line where it is indented."""

    module: cst.Module
    above: str
    node: cst.FunctionDef

    @classmethod
    def of(cls, text: str, step: int, file: str) -> _Function:
        above = _above(text, step)
        module = _parse(above + text, file)
        inner: cst.CSTNode = module
        while not isinstance(inner, cst.FunctionDef):
            (inner,) = inner.body if isinstance(inner, cst.Module) else cast(cst.ClassDef, inner).body.body
        return cls(module, above, inner)

    @property
    def text(self) -> str:
        (outer,) = self.module.body
        return self.module.with_changes(body=[_around(outer, self.node)]).code.removeprefix(self.above)


def _around(outer: cst.CSTNode, function: cst.FunctionDef) -> cst.CSTNode:
    """The classes of `outer` with another function in them."""
    if not isinstance(outer, cst.ClassDef):
        return function
    (inner,) = outer.body.body
    return outer.with_changes(body=outer.body.with_changes(body=[_around(inner, function)]))


Functions = dict[int, _Function]
"""By the number of the function in the file."""


class Draft:
    """A file that takes the edits of one patch after another, each patch whole or not at all.

    `file` appears in errors. Only the functions that edits name are taken apart, once each.
    """

    def __init__(self, raw: bytes, file: str) -> None:
        self._source = source_of(raw, file)
        self._there = list(functions_of(self._source.module))
        self._stock: Functions = {}
        self._edited: Functions = {}
        self._headers: list[str] = []

    def add(self, edits: Sequence[Edit | Either], header: str = "") -> None:
        """Make all edits and put `header` (comment lines, then assignments) below the imports.

        Raises AnchorError when an anchor does not match as often as expected, and QuantctlError when what is to be
        edited does not round-trip; the draft stays what it was then.
        """
        edited = dict(self._edited)
        try:
            for edit in edits:
                if isinstance(edit, Either):
                    edited |= self._apply_one_of(edited, edit)
                else:
                    edited |= self._apply(edited, edit)
            if header:
                self._end_of_imports()
        except AnchorError as refusal:
            raise refusal.with_line(self._source) from None
        self._edited = edited
        self._headers += [header] if header else []

    def result(self) -> bytes:
        """The file with everything in. Raises QuantctlError if the interpreter would not take it."""
        raw = self._source.raw
        for number in sorted(self._edited, reverse=True):
            start, end = self._source.lines_of(self._there[number][1])
            code = self._edited[number].text
            if not raw[start:end].endswith((b"\n", b"\r")):
                code = code.rstrip("\r\n")
            raw = raw[:start] + code.encode(self._source.encoding) + raw[end:]
        if self._headers:
            end = self._end_of_imports()
            newline = next((ending for ending in (b"\r\n", b"\n", b"\r") if raw[:end].endswith(ending)), b"")
            # each stands right below the imports, and what was there before it moves down
            for header in self._headers:
                inserted = ["", *textwrap.dedent(header).strip("\n").splitlines(), ""]
                raw = raw[:end] + (newline or b"\n").join(line.encode() for line in inserted) + raw[end:]
        source_of(raw, self._source.name).compile()
        return raw

    def _apply(self, edited: Functions, edit: Edit) -> Functions:
        """The function that the edit names, as it makes it."""
        found = [number for number, (scope, _) in enumerate(self._there) if scope == edit.scope]
        if len(found) != 1:
            raise AnchorError(self._source.name, f"function `{edit.scope}`", (1,), len(found), (edit,))
        (number,) = found
        function = edited.get(number) or self._taken_apart(number)
        change = CHANGES[edit.kind](edit, function.module)
        node = change.of(function.node)
        if change.matches not in edit.count:
            raise AnchorError(self._source.name, str(edit), edit.count, change.matches, (edit,))
        return {number: _Function(function.module, function.above, node)}

    def _apply_one_of(self, edited: Functions, choice: Either) -> Functions:
        fitting: list[Functions] = []
        refusals: list[AnchorError] = []
        for edit in choice.edits:
            try:
                fitting.append(self._apply(edited, edit))
            except AnchorError as refusal:
                refusals.append(refusal)
        if len({refusal.anchor for refusal in refusals}) == 1 < len(refusals):
            raise refusals[0]  # none of them finds the function
        found = len(fitting) + sum(refusal.found for refusal in refusals)
        if found != 1:
            raise AnchorError(self._source.name, str(choice), (1,), found, choice.edits)
        return fitting[0]

    def _taken_apart(self, number: int) -> _Function:
        """A function as it stands in the file."""
        if number not in self._stock:
            node = self._there[number][1]
            text = self._source.text(*self._source.lines_of(node))
            self._stock[number] = _Function.of(text, node.body[0].col_offset - node.col_offset, self._source.name)
        return self._stock[number]

    def _end_of_imports(self) -> int:
        """Where the block of imports at the top of the file ends."""
        body = self._source.module.body
        imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        if True not in imports:
            raise AnchorError(self._source.name, "an import at the top of the file", (1,), 0)
        first = imports.index(True)
        last = imports.index(False, first) - 1 if False in imports[first:] else len(imports) - 1
        return self._source.lines_of(body[last])[1]


def insert(raw: bytes, file: str, edits: Sequence[Edit | Either], header: str = "") -> bytes:
    """The file with the edits and the header of one patch: `Draft`, for those that insert nothing else."""
    draft = Draft(raw, file)
    draft.add(edits, header)
    return draft.result()
