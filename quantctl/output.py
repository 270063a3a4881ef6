"""Printing: data to stdout (text or JSON), prose to stderr."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
        parts = [_cut(cell) for cell in row]
        found += [[one[at] if at < len(one) else "" for one in parts] for at in range(max(map(len, parts)))]
    return found


def _cut(cell: str) -> list[str]:
    lines = [""]
    for part in cell.split("; ") if len(cell) > _WIDEST else [cell]:
        if lines[-1] and len(lines[-1]) + len(part) > _WIDEST:
            lines[-1] += ";"
            lines.append(f"  {part}")
        else:
            lines[-1] = "; ".join(filter(None, [lines[-1], part]))
    return lines


def fitted(rows: Sequence[Sequence[object]], together: int) -> str:
    """`columns`; on a terminal that is too narrow for them, those behind the first `together` lines of their own."""
    table = columns(rows)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if not width or max(map(len, table.splitlines())) <= width:
        return table
    lines = columns([row[:together] for row in rows]).splitlines()
    indent = " " * 4
    folded = [
        "".join(
            "\n"
            + textwrap.fill(str(cell), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            for cell in cells
        )
        for cells in (row[together:] for row in rows)
    ]
    return "\n".join(map("".join, zip(lines, folded, strict=True)))


_ANY_WIDTH = 10_000


def whole_width(table: Table, console: Console) -> int:
    """What it takes to cut and fold nothing of a table of rich's."""
    return console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum


def parted(
    make: Callable[[list[str]], Table], first: str, groups: Sequence[Iterable[str]], console: Console
) -> list[Table]:
    """The columns of a table in as few tables as the console's width takes: one, else one a group, else these in parts.

    `make`: from headings to a table of rich's; `first` is the heading that all of them begin with.
    """

    def is_within(headings: list[str]) -> bool:
        return whole_width(make(headings), console) <= console.width

    whole = [first, *(heading for group in groups for heading in group)]
    if is_within(whole):
        return [make(whole)]
    parts: list[list[str]] = []
    for group in groups:
        parts.append([first])
        for heading in group:
            if len(parts[-1]) > 1 and not is_within([*parts[-1], heading]):
                parts.append([first])
            parts[-1].append(heading)
    return [make(part) for part in parts if len(part) > 1]
