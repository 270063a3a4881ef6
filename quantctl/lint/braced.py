"""`${NAME...}` in a word: the name, its element, the operator and what it works on."""

from __future__ import annotations

from collections.abc import Callable

from quantctl.lint.parts import NAME_START, NotRead, Parameter, Part, Text

SPECIAL = frozenset("@*#?$!-")
_DEFAULTS = (":-", ":=", ":+", ":?", "-", "=", "+", "?")
_PATTERNS = ("##", "#", "%%", "%")
_CASES = ("^^", "^", ",,", ",")


class Braced:
    """The part of a Scanner that knows `${`."""

    text: str
    at: int
    look: Callable[..., str]
    take: Callable[[str], bool]
    name: Callable[[], str]
    balanced: Callable[[str, str], str]
    until: Callable[[str, bool, bool, bool], tuple[Part, ...]]

    def braced(self, quoted: bool) -> Parameter:
        prefix = ""
        if self.look() in "#!" and self.look(1) not in ("}", ":", "-", "=", "+", "?", "%", "/", "#"):
            prefix = self.look()
            self.at += 1
        sign = self.look()
        if sign in NAME_START and sign:
            name = self.name()
        elif sign.isdigit():
            start = self.at
            while self.look().isdigit():
                self.at += 1
            name = self.text[start : self.at]
        elif sign in SPECIAL and sign:
            name = sign
            self.at += 1
        else:
            raise NotRead
        index = self.balanced("[", "]") if self.take("[") else None
        if self.take("}"):
            return Parameter(name, quoted, index, prefix)
        if prefix == "!" and self.look() in "*@" and self.look(1) == "}":
            raise NotRead
        operator, operands = self._operation(quoted)
        if not self.take("}"):
            raise NotRead
        return Parameter(name, quoted, index, prefix, operator, operands)

    def _operation(self, quoted: bool) -> tuple[str, tuple[tuple[Part, ...], ...]]:
        for operator in _DEFAULTS:
            if self.take(operator):
                return operator, (self.until("}", quoted, not quoted, True),)
        for operator in (*_PATTERNS, *_CASES):
            if self.take(operator):
                return operator, (self.until("}", False, True, True),)
        if self.take("/"):
            operator = "/"
            if self.look() and self.look() in "/#%":
                operator += self.look()
                self.at += 1
            first = (Text("/"),) if operator == "//" and self.take("/") else ()
            pattern = (*first, *self.until("/}", False, True, True))
            return operator, (pattern, self.until("}", False, True, True) if self.take("/") else ())
        if self.take(":"):
            offset = self.until(":}", True, False, True)
            return ":", (offset, *((self.until("}", True, False, True),) if self.take(":") else ()))
        if self.take("@"):
            return "@", (self.until("}", True, False, True),)
        raise NotRead
