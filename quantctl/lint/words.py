"""Words of bash expanded in a world: quoting, variables, arrays, `${NAME:-default}`, arithmetic, substitutions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from quantctl.lint import arithmetic, braces, patterns
from quantctl.lint.fields import BREAK, DEFAULT_IFS, NO_ELEMENTS, Fields, Piece, one_text
from quantctl.lint.parameters import Parameters
from quantctl.lint.parts import Nested, NotRead, Parameter, Part, Text
from quantctl.lint.scan import scan, scan_quoted
from quantctl.lint.world import MANY, UNKNOWN, World, known

if TYPE_CHECKING:
    from tree_sitter import Node

_LONGEST_WORD = 2**20


def source(node: Node) -> str:
    """The node's text. Bytes that are no UTF-8 cannot be a flag's."""
    return (node.text or b"").decode("utf-8", "replace")


def spans(nodes: Sequence[Node], parent: Node) -> list[str | None]:
    """The source of each word below `parent`; None for what the grammar could not read.

    Nodes that touch are one word, and what the grammar leaves out between two nodes (an escaped blank) belongs to the
    word that it touches.
    """
    if not nodes:
        return []
    raw, start = parent.text or b"", parent.start_byte
    wanted = {node.start_byte for node in nodes}
    found: list[str | None] = []
    end = start
    joins = False
    opens = True
    """Whether what stands in front is a bracket or keyword, so that a gap that touches is the word's beginning."""
    for child in parent.children:
        gap = _gap(raw[end - start : child.start_byte - start].decode("utf-8", "replace"))
        touches = len(gap) == 1
        if joins and gap[0] and found[-1] is not None:
            found[-1] += gap[0]
        if child.start_byte in wanted and child.type != "comment":
            found += gap[1:-1]
            text = None if child.has_error else source(child)
            if joins and touches:
                before = found[-1]
                found[-1] = None if before is None or text is None else before + text
            else:
                torn = touches and gap[0] and not opens
                found.append(None if text is None or torn else gap[-1] + text)
            joins = True
        else:
            joins, opens = False, not child.is_named
        end = child.end_byte
    return found


def tears(node: Node) -> bool:
    """Whether the grammar ends an assignment or redirection in a command at an escaped blank."""
    raw, start = node.text or b"", node.start_byte
    return any(
        raw[one.end_byte - start : two.start_byte - start].replace(b"\\\n", b"").strip()
        for one, two in pairwise(node.children)
        if one.type == "variable_assignment" or one.type.endswith("redirect")
    )


def _gap(text: str) -> list[str]:
    """What stands in a gap between nodes, taken apart at its blanks; one piece where there is no blank."""
    if not text.strip(" \t\n"):
        return ["", ""] if text else [""]
    found, at, first = [""], 0, True
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] != "\n":
            found[-1] += text[at : at + 2]
            at += 2
        elif text[at] in " \t\n\\":
            if first or found[-1]:
                found.append("")
            first = False
            at += 1
        else:
            found[-1] += text[at]
            at += 1
    return found


class Expander(Parameters):
    """Expands words in one world. `soft` says afterwards whether a default that the caller can change took part."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.soft = False

    # ---- words of a command ----

    def sequence(self, nodes: Sequence[Node], parent: Node) -> list[str]:
        """The words of several arguments or array elements below `parent`."""
        found: list[str] = []
        for text in spans(nodes, parent):
            found += [MANY] if text is None else self.words(text)
        return list(self.world.work.words(found))

    def words(self, text: str) -> list[str]:
        """The arguments that a word's source becomes."""
        if not self._affordable(text):
            return [MANY]
        expanded = braces.expand(text)
        if expanded is None:
            self.forget_assigned_in(text)
            return [MANY]
        found: list[str] = []
        for one in expanded:
            try:
                found += Fields(self.world.work, self.ifs()).add(self.pieces(scan(one)))
            except (NotRead, patterns.NoPattern) as error:
                self._deep(error)
                self.forget_assigned_in(one)
                found.append(MANY)
        return found

    def _affordable(self, text: str) -> bool:
        if len(text) > _LONGEST_WORD:
            self.world.work.note(f"a word has more than {_LONGEST_WORD:,} characters")
            return False
        return self.world.work.spend(1 + len(text) // 4)

    def _deep(self, error: Exception) -> None:
        if error.args:
            self.world.work.note(str(error))

    # ---- one value ----

    def text(self, node: Node | None) -> str:
        """The value of a word in an assignment or a test, where blanks separate nothing."""
        if node is None:
            return ""
        return UNKNOWN if node.has_error else self.value_of(source(node))

    def value_of(self, text: str) -> str:
        """The same of a word's source."""
        return self._scanned(text, scan)

    def document(self, text: str) -> str:
        """The text of a here-document, with its expansions."""
        return self._scanned(text, scan_quoted)

    def _scanned(self, text: str, scanner: Callable[[str], Iterable[Part]]) -> str:
        if not self._affordable(text):
            return UNKNOWN
        try:
            return self.joined(scanner(text))
        except (NotRead, patterns.NoPattern) as error:
            self._deep(error)
            self.forget_assigned_in(text)
            return UNKNOWN

    def joined(self, parts: Iterable[Part]) -> str:
        """Parts as one text: elements of a list stand a blank apart."""
        pieces = self.pieces(parts, splitting=False)
        if BREAK in pieces and self.ifs() != DEFAULT_IFS:
            return UNKNOWN  # which sign joins the elements differs between `$@` and `${@:2}`
        found = [" " if piece is BREAK else piece.text for piece in pieces]
        return self.world.work.text(one_text("".join(found)))

    def pattern(self, text: str) -> list[patterns.Item] | None:
        """A word as a pattern; None if it is not known in full. Raises NoPattern."""
        try:
            pieces = self.pieces(scan(text), splitting=False)
        except NotRead:
            return None
        return self.pattern_of(pieces)

    # ---- parts ----

    def ifs(self) -> str | None:
        value = self.world.scalars.get("IFS", DEFAULT_IFS)
        return value if known(value) else None

    def pieces(self, parts: Iterable[Part], splitting: bool = True) -> list[Piece]:
        found: list[Piece] = []
        for part in parts:
            if isinstance(part, Text):
                found.append(Piece(part.text, part.quoted))
            elif isinstance(part, Parameter):
                found += self.parameter(part, splitting)
            else:
                text = self._nested(part)
                found.append(Piece(text, part.quoted, splitting and not part.quoted and part.kind != "~"))
        return found

    def _nested(self, part: Nested) -> str:
        if part.kind == "((":
            value = self.number(part.text)
            return UNKNOWN if value is None else str(value)
        if part.kind == "$(" and self.world.work.capture is not None:
            return self.world.work.text(self.world.work.capture(part.text, self.world))
        return UNKNOWN

    def number(self, text: str) -> int | None:
        """An arithmetic expression's source; None if any part of it is unknown."""
        try:
            plain = self.joined(_in_arithmetic(text)) if re.search(r"[$`\"'\\]", text) else text
            # whoever sets a variable from outside can change what it counts
            self.soft = self.soft or any(name in self.world.soft for name in re.findall(r"[A-Za-z_]\w*", plain))
            if known(plain):
                return arithmetic.evaluate(plain, self.world)
            self.forget_assigned_in(plain)
            return None
        except arithmetic.Fails:
            self.world.work.note("arithmetic is in it that fails, at which bash gives a command up")
            self.forget_assigned_in(text)
            return None
        except (NotRead, arithmetic.NotComputed, patterns.NoPattern, RecursionError):
            self.forget_assigned_in(text)
            return None

    def forget_assigned_in(self, text: str) -> None:
        """What an expression that is not computed may have assigned is unknown."""
        for name in re.findall(r"([A-Za-z_]\w*)\s*(?:\+\+|--|[-+*/%<>&^|]{0,2}=(?!=))", text):
            self.world.forget(name)
        for name in re.findall(r"\$\{([A-Za-z_]\w*):?=", text):
            self.world.forget(name)
        for name in re.findall(r"(?:\+\+|--)\s*([A-Za-z_]\w*)", text):
            self.world.forget(name)


def _in_arithmetic(text: str) -> tuple[Part, ...]:
    """Arithmetic is expanded as if it stood in double quotes; quotes in it go."""
    escaped = re.sub(r'(?<!\\)"', "", text)
    return scan_quoted(escaped)


__all__ = ["BREAK", "NO_ELEMENTS", "Expander", "source", "spans"]
