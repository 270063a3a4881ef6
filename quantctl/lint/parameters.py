"""Parameters of bash and the operators of `${NAME...}`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quantctl.lint import patterns
from quantctl.lint.fields import BREAK, DEFAULT_IFS, NO_ELEMENTS, Piece
from quantctl.lint.parts import NAME_START, Parameter, Part
from quantctl.lint.variables import LISTS, Value, Variables, is_open
from quantctl.lint.world import MANY, UNKNOWN, known


class Parameters(Variables):
    """The part of an Expander that knows variables."""

    pieces: Callable[..., list[Piece]]
    joined: Callable[[Iterable[Part]], str]
    ifs: Callable[[], str | None]

    def parameter(self, part: Parameter, splitting: bool) -> list[Piece]:
        """The pieces of an expansion."""
        if part.operator in (":-", ":=", ":+", ":?", "-", "=", "+", "?"):
            return self._default(part, splitting)
        return self._shown(part, self._operated(part), splitting)

    def _shown(self, part: Parameter, value: Value, splitting: bool) -> list[Piece]:
        split = splitting and not part.quoted
        if not isinstance(value, tuple):
            empty = value is None and self.surely_unset(part)
            return [Piece("" if empty else UNKNOWN if value is None else value, part.quoted, split)]
        star = "*" in (part.name, part.index)
        if star and (part.quoted or not splitting):
            separator = self.ifs()
            joined = UNKNOWN if separator is None or is_open(value) else separator[:1].join(value)
            return [Piece(joined, part.quoted)]
        if not value:
            return [NO_ELEMENTS]
        if split and (part.operator or part.prefix) and self.ifs() != DEFAULT_IFS:
            return [Piece(MANY, False)]  # bash joins the elements anew there
        found: list[Piece] = []
        for index, item in enumerate(value):
            found += [BREAK] * bool(index) + [Piece(item, part.quoted, split)]
        return found

    # ---- ${NAME:-word} and its relatives ----

    def _default(self, part: Parameter, splitting: bool) -> list[Piece]:
        value = self.value_of_part(part)
        operator = part.operator[-1]
        if isinstance(value, tuple):
            empty = not value or (part.operator[0] == ":" and value == ("",))
            unset = not value
        else:
            empty = value is None or (value == "" and part.operator[0] == ":")
            unset = value is None
        self.soft = self.soft or (unset and not isinstance(value, tuple) and not self.surely_unset(part))
        if operator == "+":
            if empty:
                return [NO_ELEMENTS] if isinstance(value, tuple) or not part.quoted else [Piece("", True)]
            if not _surely_there(value):
                unknown = MANY if isinstance(value, tuple) else UNKNOWN
                return [Piece(unknown, part.quoted, splitting and not part.quoted)]
            return self._operand(part, splitting)
        if operator == "?":
            return self._shown(part, value, splitting)
        if not empty:
            if not _surely_there(value) and not isinstance(value, tuple):
                value = UNKNOWN
            return self._shown(part, value, splitting)
        if operator == "=" and part.index is None and part.name[0] in NAME_START:
            text = self.joined(part.operands[0])
            self.world.assign(part.name, text, True)
            return [Piece(text, part.quoted, splitting and not part.quoted)]
        return self._operand(part, splitting)

    def _operand(self, part: Parameter, splitting: bool) -> list[Piece]:
        """The word behind the operator; what is not quoted in it is split like any expansion."""
        found = self.pieces(part.operands[0], splitting)
        if not part.operands[0]:
            return [Piece("", part.quoted, splitting and not part.quoted)]
        if part.quoted or not splitting:
            return found
        return [
            piece if piece is BREAK or piece.quoted or piece.split else Piece(piece.text, False, True)
            for piece in found
        ]

    # ---- the other operators ----

    def _operated(self, part: Parameter) -> Value:
        value = self.value_of_part(part)
        if part.prefix == "#":
            return _length(value)
        operator = part.operator
        if not operator or value is None:
            return value
        if operator == "@":
            return UNKNOWN if not isinstance(value, tuple) else (MANY,)
        if operator == ":":
            return self._slice(part, value)
        if isinstance(value, tuple):
            if is_open(value):
                return (MANY,)
            return tuple(self._changed(part, item) for item in value)
        return self._changed(part, value)

    def _changed(self, part: Parameter, text: str) -> str:
        if not known(text):
            return UNKNOWN
        items = self.pattern_of(self.pieces(part.operands[0], False))
        if items is None:
            return UNKNOWN
        work, operator = self.world.work, part.operator
        if operator[0] in "#%":
            return patterns.remove(operator, items, text, work)
        if operator[0] in "^,":
            return patterns.change_case(operator, items, text, work)
        by = self.pieces(part.operands[1], False)
        if any("&" in piece.text and not piece.quoted for piece in by):
            raise patterns.NoPattern  # the match itself, in bash 5.2 only
        put = "".join(" " if piece is BREAK else piece.text for piece in by)
        return patterns.replace(operator, items, text, put, work) if known(put) else UNKNOWN

    def pattern_of(self, pieces: list[Piece]) -> list[patterns.Item] | None:
        if not all(known(piece.text) for piece in pieces):
            return None
        return patterns.compile_([(" " if piece is BREAK else piece.text, piece.quoted) for piece in pieces])

    def _slice(self, part: Parameter, value: str | tuple[str, ...]) -> Value:
        offset, *rest = (self.number(self.joined(operand)) for operand in part.operands)
        unknown: Value = (MANY,) if isinstance(value, tuple) else UNKNOWN
        if offset is None or None in rest:
            return unknown
        length = rest[0] if rest else None
        if isinstance(value, str):
            if not known(value):
                return UNKNOWN
            start = offset if offset >= 0 else len(value) + offset
            if start < 0 or start > len(value):
                return ""
            end = len(value) if length is None else start + length if length >= 0 else len(value) + length
            if end < start:
                self.world.work.note("a substring of negative length is in it, at which bash stops")
            return value[start:end] if end >= start else UNKNOWN
        if is_open(value) or (length is not None and length < 0):
            return unknown
        if part.name in LISTS:
            if offset == 0:
                return unknown  # it begins with $0
            offset -= offset > 0
        start = offset if offset >= 0 else len(value) + offset
        if start < 0:
            return ()
        return value[start : None if length is None else start + length]

    # ---- values ----


def _surely_there(value: Value) -> bool:
    """Whether a value that was found is one: text that nobody knows may be empty, or absent."""
    if isinstance(value, tuple):
        return any(MANY not in item for item in value)
    return value is not None and (known(value) or bool(value.replace(UNKNOWN, "").replace(MANY, "")))


def _length(value: Value) -> str:
    if isinstance(value, tuple):
        return UNKNOWN if any(MANY in item for item in value) else str(len(value))
    return UNKNOWN if value is None or not known(value) or not value.isascii() else str(len(value))
