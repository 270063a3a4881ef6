"""From expanded pieces to words: what bash calls word splitting, quote removal and the end of pathname expansion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from quantctl.lint.world import MANY, UNKNOWN, Work

DEFAULT_IFS = " \t\n"


@dataclass(frozen=True)
class Piece:
    """A part of a word's value."""

    text: str
    quoted: bool
    """Whether it can be no pattern and is a word even where it is empty."""
    split: bool = False
    """Whether blanks in it separate words: it comes from an unquoted expansion."""


BREAK = Piece("", False, False)
"""Between two elements of a list: another word begins."""
NO_ELEMENTS = Piece("", False, True)
"""`"${A[@]}"` of an empty list: no word, unless something stands beside it."""


class Fields:
    """Words in the making."""

    def __init__(self, work: Work, ifs: str | None) -> None:
        self.work = work
        self.ifs = ifs
        """What separates words; None if nobody knows."""
        self.words: list[str] = []
        self.current: list[str] | None = None
        self.globs = False
        self.inside = False
        """Whether the word in the making is an element behind the first one."""

    def add(self, pieces: Iterable[Piece]) -> list[str]:
        for piece in pieces:
            if piece is BREAK:
                # an element that may be no word at all: what stands in front of it may touch the next one
                if self.current is None or self.current[-1] != MANY or len(self.current) == 1:
                    self._end()
                self.inside = True
            elif piece.split:
                self._split(piece.text)
            else:
                self._join(piece.text)
                self.globs = self.globs or (not piece.quoted and _is_glob(piece.text))
        self._end()
        return self.words

    def _join(self, text: str) -> None:
        if not self.work.spend(1 + len(text) // 50):
            text = UNKNOWN
        if self.current == [MANY] and self.inside and self.words:
            # it may be no word at all: then the text touches the element in front of it
            self.current = [self.words.pop(), MANY]
        self.current = [*(self.current or ()), text]

    def _end(self) -> None:
        if self.current is not None:
            word = self.work.text("".join(self.current))
            self.words.append(MANY if self.globs else word)
        self.current, self.globs, self.inside = None, False, False

    def _split(self, text: str) -> None:
        text = text.replace(UNKNOWN, MANY)
        if self.ifs is None:
            if text:
                self._join(MANY)
            return
        blanks = {sign for sign in self.ifs if sign in DEFAULT_IFS}
        at = 0
        while at < len(text):
            start = at
            while at < len(text) and text[at] not in self.ifs:
                at += 1
            if at > start:
                self._join(text[start:at])
                self.globs = self.globs or _is_glob(text[start:at])
            if at == len(text):
                return
            at = self._separator(text, at, blanks)

    def _separator(self, text: str, at: int, blanks: set[str]) -> int:
        """A run of blanks with at most one other separator in it ends a word; the other one ends an empty word, too."""
        while at < len(text) and text[at] in blanks:
            at += 1
        if at < len(text) and text[at] in (self.ifs or ""):
            if self.current is None:
                self._join("")
            at += 1
            while at < len(text) and text[at] in blanks:
                at += 1
        self._end()
        return at


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text or ("[" in text and "]" in text[text.index("[") :])


def one_text(text: str) -> str:
    """Words joined by blanks as one text: where words are missing, the blanks beside them may be, too."""
    return re.sub(f" ?{MANY} ?", UNKNOWN, text) if MANY in text else text
