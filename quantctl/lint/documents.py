"""Here-documents inside a command substitution: where they end, so that their text closes nothing."""

from __future__ import annotations

from typing import Protocol

from quantctl.lint.parts import NotRead


class Cursor(Protocol):
    """A place in a text."""

    text: str
    at: int

    def look(self, ahead: int = 0) -> str:
        """The character at the place, or behind it; nothing at the end."""

    def take(self, text: str) -> bool:
        """Whether the text stands there; then the place is behind it."""


def delimiter(cursor: Cursor) -> tuple[str, bool]:
    """`<<-'WORD'`, taken: the line that ends the here-document, and whether tabs in front of it go."""
    cursor.at += 2
    tabs = cursor.take("-")
    while cursor.look() and cursor.look() in " \t":
        cursor.at += 1
    start = cursor.at
    while cursor.at < len(cursor.text) and cursor.look() not in " \t\n;|&()<>":
        cursor.at += 1
    word = cursor.text[start : cursor.at].replace("'", "").replace('"', "").replace("\\", "")
    if not word:
        raise NotRead
    return word, tabs


def skip_documents(cursor: Cursor, waiting: list[tuple[str, bool]]) -> None:
    """From the end of a line behind the here-documents that begin below it."""
    for word, tabs in waiting:
        while True:
            if cursor.at >= len(cursor.text):
                raise NotRead
            end = cursor.text.find("\n", cursor.at + 1)
            end = len(cursor.text) if end < 0 else end
            line = cursor.text[cursor.at + 1 : end]
            cursor.at = end
            if (line.lstrip("\t") if tabs else line) == word:
                break
