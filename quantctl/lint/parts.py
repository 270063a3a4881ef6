"""The parts of a word of bash."""

from __future__ import annotations

from dataclasses import dataclass

NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


NAME = NAME_START | frozenset("0123456789")


class NotRead(Exception):
    """The text is no word that is understood."""


@dataclass(frozen=True)
class Text:
    """Characters that stand for themselves."""

    text: str
    quoted: bool = False


@dataclass(frozen=True)
class Parameter:
    """`$NAME`, `${NAME[INDEX]OPERATOR...}`."""

    name: str
    quoted: bool
    index: str | None = None
    prefix: str = ""
    """`#` for a length, `!` for a name behind a name."""
    operator: str = ""
    operands: tuple[tuple[Part, ...], ...] = ()


@dataclass(frozen=True)
class Nested:
    """What another language or another shell computes: `((`, `$(`, `<(`, `~`."""

    kind: str
    text: str
    quoted: bool


Part = Text | Parameter | Nested
