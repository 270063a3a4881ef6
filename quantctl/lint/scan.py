"""A word of bash taken apart: text, quoting, expansions. Nothing is expanded here.

tree-sitter's grammar says where commands and words are; inside a word it drops blanks that count (in `"$A $B"`, in
`${A:-x y}`), so words are read from their source.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quantctl.lint.braced import SPECIAL, Braced
from quantctl.lint.documents import delimiter, skip_documents
from quantctl.lint.escapes import ansi_c
from quantctl.lint.parts import NAME, NAME_START, Nested, NotRead, Parameter, Part, Text

_DEEPEST = 40


@dataclass
class Scanner(Braced):
    """Reads parts from `text` at `at` on."""

    text: str
    at: int = 0
    depth: int = 0
    parts: list[Part] = field(default_factory=list)

    def look(self, ahead: int = 0) -> str:
        return self.text[self.at + ahead : self.at + ahead + 1]

    def take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def until(self, stops: str, quoted: bool, single: bool, blanks: bool) -> tuple[Part, ...]:
        """Parts up to one of `stops` (not taken), or the end where there is none.

        `quoted`: inside double quotes. `single`: whether `'` quotes. `blanks`: whether blanks may stand here.
        """
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NotRead("expansions are nested too deeply in it")
        found: list[Part] = []
        while self.at < len(self.text) and self.look() not in stops:
            start = self.at
            found += self._one(quoted, single, blanks, not found)
            if self.at == start:
                raise NotRead
        if stops and self.at >= len(self.text):
            raise NotRead
        self.depth -= 1
        return tuple(found)

    def _one(self, quoted: bool, single: bool, blanks: bool, first: bool) -> list[Part]:
        sign = self.look()
        if sign == "\\":
            return self._backslash(quoted)
        if sign == "'" and single:
            end = self.text.find("'", self.at + 1)
            if end < 0:
                raise NotRead
            text, self.at = self.text[self.at + 1 : end], end + 1
            return [Text(text, True)]
        if sign == '"':
            self.at += 1
            inner = list(self.until('"', True, False, True))
            self.at += 1
            lists = [part for part in inner if isinstance(part, Parameter) and part.prefix != "#"]
            operated = any("@" not in (part.name, part.index) and (part.operator or part.prefix) for part in lists)
            if operated and any("@" in (part.name, part.index) for part in lists):
                raise NotRead  # bash takes one apart for the other's sake
            return inner or [Text("", True)]
        if sign == "`":
            return [self._backticks(quoted)]
        if sign == "$":
            return [self._dollar(quoted)]
        if not quoted:
            if sign in "<>" and self.look(1) == "(":
                self.at += 2
                return [Nested("<(", self.parenthesized(), False)]
            if sign == "~" and first and (self.at == 0 or blanks):
                return [self._tilde()]
            if sign in "();&|<>\n \t" and not blanks:
                raise NotRead
        return [self._plain(quoted)]

    def _plain(self, quoted: bool) -> Text:
        start = self.at
        self.at += 1
        while self.at < len(self.text) and (self.look() in NAME or self.look() in "-.:=+,@%^"):
            if self.look() in ":/,%^=+-" and self.depth > 1:
                break
            self.at += 1
        return Text(self.text[start : self.at], quoted)

    def _tilde(self) -> Nested:
        start = self.at
        while self.at < len(self.text) and self.look() not in "/ \t}\"'$`":
            self.at += 1
        return Nested("~", self.text[start : self.at], False)

    def _backslash(self, quoted: bool) -> list[Part]:
        following = self.look(1)
        self.at += 2
        if following == "\n":
            return []
        if not following:
            self.at -= 1
            return [Text("\\", True)]
        if quoted and following not in '$`"\\':
            self.at -= 1
            return [Text("\\", True)]
        return [Text(following, True)]

    def _backticks(self, quoted: bool) -> Nested:
        start, found = self.at + 1, []
        at = start
        while at < len(self.text) and self.text[at] != "`":
            if self.text[at] == "\\" and at + 1 < len(self.text):
                if self.text[at + 1] not in ('$`\\"' if quoted else "$`\\"):
                    found.append("\\")
                at += 1
            found.append(self.text[at])
            at += 1
        if at >= len(self.text):
            raise NotRead
        self.at = at + 1
        return Nested("$(", "".join(found), quoted)

    def _dollar(self, quoted: bool) -> Part:
        self.at += 1
        sign = self.look()
        if sign == "'" and not quoted:
            return self._ansi()
        if sign == '"' and not quoted:
            self.at += 1
            inner = self.until('"', True, False, True)
            self.at += 1
            if len(inner) > 1:
                raise NotRead
            return inner[0] if inner else Text("", True)
        if self.take("(("):
            start = self.at
            try:
                return Nested("((", self._arithmetic(), quoted)
            except NotRead:
                self.at = start - 1
                return Nested("$(", self.parenthesized(), quoted)
        if self.take("("):
            return Nested("$(", self.parenthesized(), quoted)
        if self.take("["):
            return Nested("((", self.balanced("[", "]"), quoted)
        if self.take("{"):
            return self.braced(quoted)
        if sign and sign in NAME_START:
            return Parameter(self.name(), quoted)
        if sign and (sign in SPECIAL or sign.isdigit()):
            self.at += 1
            return Parameter(sign, quoted)
        return Text("$", True)

    def _ansi(self) -> Text:
        start = at = self.at + 1
        while at < len(self.text) and self.text[at] != "'":
            at += 2 if self.text[at] == "\\" else 1
        if at >= len(self.text):
            raise NotRead
        self.at = at + 1
        decoded = ansi_c(self.text[start:at])
        if decoded is None:
            raise NotRead
        return Text(decoded, True)

    def name(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.look() in NAME:
            self.at += 1
        return self.text[start : self.at]

    def _arithmetic(self) -> str:
        text = self.balanced("(", ")")
        if not self.take(")"):
            raise NotRead
        return text

    def parenthesized(self) -> str:
        return self.balanced("(", ")")

    def balanced(self, opening: str, closing: str) -> str:
        """The text up to the bracket that closes the one before, which is taken, too. Quotes hide brackets."""
        start, open_ = self.at, 1
        waiting: list[tuple[str, bool]] = []
        while self.at < len(self.text):
            sign = self.look()
            if sign == "\\":
                self.at += 2
                continue
            if sign == "'":
                self.at = self.text.find("'", self.at + 1) + 1
                if not self.at:
                    raise NotRead
                continue
            if sign == '"':
                Scanner.until(inner := Scanner(self.text, self.at + 1, self.depth), '"', True, False, True)
                self.at = inner.at + 1
                continue
            if opening == "(" and sign == "#" and self.text[self.at - 1] in " \t\n":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
                continue
            if opening == "(" and self.text.startswith("<<", self.at) and self.look(2) != "<":
                waiting.append(delimiter(self))
                continue
            if sign == "\n" and waiting:
                skip_documents(self, waiting)
                waiting = []
                continue
            open_ += (sign == opening) - (sign == closing)
            self.at += 1
            if not open_:
                return self.text[start : self.at - 1]
        raise NotRead


def scan(text: str) -> tuple[Part, ...]:
    """The parts of one word. Raises NotRead for text that is none, or that is not understood."""
    return Scanner(text).until("", False, True, False)


def scan_quoted(text: str) -> tuple[Part, ...]:
    """The parts of a here-document's body, where quotes are characters."""
    found: list[Part] = []
    scanner = Scanner(text)
    while scanner.at < len(text):
        at = next((i for i in range(scanner.at, len(text)) if text[i] in "\\$`"), len(text))
        if at > scanner.at:
            found.append(Text(text[scanner.at : at], True))
            scanner.at = at
            continue
        if scanner.look() == "\\" and scanner.look(1) == '"':
            scanner.at += 1
            found.append(Text("\\", True))
            continue
        found += scanner._one(True, False, True, False)
    return tuple(found)
