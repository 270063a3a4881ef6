"""Printing: data to stdout (text or JSON), prose to stderr."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import click

SCHEMA = 1
"""Of what --json prints (docs/json.md): goes up when a key is renamed, removed or means something else."""


def data(value: Any) -> None:
    """One JSON document on stdout; an object says its schema first."""
    whole = {"schema_version": SCHEMA, **value} if isinstance(value, dict) else value
    click.echo(json.dumps(whole, indent=2, default=str))


def say(text: str) -> None:
    """A line for people, on stderr. Where nobody reads any more (a lost terminal, a full disk), the work goes on."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def printable(text: str) -> str:
    """Outside text as one line that any terminal and any encoding takes: the rest escaped, as `\\n` or `\\udc80`."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, most: int = 300) -> str:
    """Outside text, printable and not endless."""
    return printable(text if len(text) <= most else f"{text[: most - 3]}...")


def columns(rows: Sequence[Sequence[object]], indent: str = "") -> str:
    """Rows as left-aligned columns, two blanks apart.

    Not rich's: importing it takes `check` a quarter of its time, and what is piped on is not to be fitted to a width.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join((indent + line).rstrip() for line in lines)


_WIDEST = 60


def folded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows for `columns`, of which the wide cells go on in rows below, parted behind semicolons: a literal's rules."""
    found = []
    for row in rows:
        parts = [_parted(cell) for cell in row]
        found += [[one[at] if at < len(one) else "" for one in parts] for at in range(max(map(len, parts)))]
    return found


def _parted(cell: str) -> list[str]:
    lines = [""]
    for part in cell.split("; ") if len(cell) > _WIDEST else [cell]:
        if lines[-1] and len(lines[-1]) + len(part) > _WIDEST:
            lines[-1] += ";"
            lines.append(f"  {part}")
        else:
            lines[-1] = "; ".join(filter(None, [lines[-1], part]))
    return lines


def one_line(text: str) -> str:
    """Text of unknown origin on one line: what no terminal should get, and bytes that are no text, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
