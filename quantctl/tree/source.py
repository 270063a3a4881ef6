"""Python source as bytes: where lines begin, what encoding they have, how positions of the parser map to bytes."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from functools import cached_property, lru_cache

from quantctl.errors import QuantctlError

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Literal:
    """A string literal as it stands in a file."""

    value: str
    line: int
    start: int
    """First byte, quotes included."""
    end: int


class Source:
    """The bytes of one file, parsed on demand. `name` appears in errors only."""

    def __init__(self, raw: bytes, name: str) -> None:
        self.raw = raw
        self.name = name

    @cached_property
    def module(self) -> ast.Module:
        """The file as the interpreter would parse it. Raises QuantctlError if it would not."""
        try:
            return ast.parse(self.raw, filename=self.name)
        except (SyntaxError, ValueError) as error:
            raise QuantctlError(
                f"{self.name} is not valid Python: {error}", "repair the file, or bring it back with git"
            ) from error
        except (MemoryError, RecursionError) as error:  # the parser's stack, not the machine's memory
            raise QuantctlError(f"{self.name} is nested too deeply to be parsed", "simplify the expression") from error

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the module: several look for something in all of them."""
        return tuple(ast.walk(self.module))

    def compile(self) -> None:
        """Raise QuantctlError if the interpreter would not take the file: some errors come after parsing."""
        try:
            compile(self.module, self.name, "exec")
        except (SyntaxError, ValueError, RecursionError) as error:
            raise QuantctlError(
                f"{self.name} does not compile: {error}", "repair the file, or bring it back with git"
            ) from error

    @cached_property
    def encoding(self) -> str:
        """The encoding that the file declares. Raises QuantctlError if Python's own tools cannot tell it.

        A byte order mark stands once, at the beginning, and belongs to no part of the text.
        """
        # to the interpreter a lone carriage return ends a line as well, and with it the line that names the encoding
        unified = self.raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        try:
            return tokenize.detect_encoding(io.BytesIO(unified).readline)[0].removesuffix("-sig")
        except SyntaxError as error:
            raise self._undecodable(error) from error

    def text(self, start: int, end: int) -> str:
        """The bytes from `start` to `end`, decoded. Raises QuantctlError if they are not what the file declares."""
        try:
            return self.raw[start:end].decode(self.encoding)
        except UnicodeDecodeError as error:  # the interpreter lets it pass in comments
            raise self._undecodable(error) from error

    def _undecodable(self, error: Exception) -> QuantctlError:
        return QuantctlError(
            f"{self.name} cannot be parsed: {error}", "save it as UTF-8, or declare its encoding in the first line"
        )

    def lines_of(self, node: ast.stmt) -> tuple[int, int]:
        """Where the lines of a statement begin and end: decorators and the last newline included."""
        assert node.end_lineno is not None
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        end = self._line_starts[node.end_lineno] if node.end_lineno < len(self._line_starts) else len(self.raw)
        return self.offset(first, 0), end

    @cached_property
    def _line_starts(self) -> list[int]:
        return [match.start() for match in _LINE.finditer(self.raw)]

    def offset(self, line: int, column: int) -> int:
        """Byte offset of the parser's position: `line` from 1, `column` in UTF-8 bytes of the decoded line."""
        start = self._line_starts[line - 1]
        if line == 1 and self.raw.startswith(_BOM):
            start += len(_BOM)
        if self.encoding == "utf-8":
            return start + column
        end = self._line_starts[line] if line < len(self._line_starts) else len(self.raw)
        text = self.text(start, end)
        before = text.encode("utf-8")[:column].decode("utf-8")
        return start + len(before.encode(self.encoding))

    def span(self, node: ast.expr) -> tuple[int, int]:
        """First byte of `node` and the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def literal(self, node: ast.Constant) -> Literal:
        """Where the string literal `node` stands. Raises QuantctlError if its bytes cannot be told."""
        try:
            start, end = self.span(node)
            found = ast.literal_eval("(" + self.raw[start:end].decode(self.encoding) + ")")
        except (SyntaxError, ValueError):  # UnicodeError is a ValueError
            found = None
        if found != node.value:
            raise QuantctlError(
                f"{self.name}:{node.lineno}: where the string {node.value!r} begins and ends cannot be told",
                "save the file as UTF-8 with ordinary newlines",
            )
        return Literal(str(node.value), node.lineno, start, end)


@lru_cache(maxsize=32)
def source_of(raw: bytes, name: str) -> Source:
    """The file, parsed once for all who ask about the same bytes: before a change, in its plan, and behind it."""
    return Source(raw, name)
