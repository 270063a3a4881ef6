"""The rows for people: a table a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantctl.bench.result import Ratio, Row
from quantctl.output import parted

MIB = 2**20
STYLES = {True: "green", False: "bold red", None: ""}


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def bound(ratio: Ratio) -> str:
    """`>= 0.95`, or nothing where nothing was promised."""
    return "" if ratio.limit is None else f"{'>=' if ratio.at_least else '<='} {ratio.limit:g}"


def ratio_text(ratio: Ratio) -> Text:
    """`0.97 of copy bandwidth (>= 0.95)`, in the colour of the verdict."""
    text = Text(f"{ratio.value:.3g}", style=STYLES[ratio.met])
    text.append(f" {ratio.name}", style="")
    return text.append(f" ({bound(ratio)})" if ratio.limit is not None else "", style="")


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value / 1e6:,.1f} MB" if value >= 1e5 else f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _what(row: Row) -> Text:
    if row.failure is not None:
        return Text(row.failure.reason, style="yellow" if row.failure.excused else "bold red")
    return Text("\n").join(ratio_text(ratio) for ratio in row.ratios)


def _cells(row: Row) -> dict[str, Any]:
    """By heading; what a row does not know is not in it."""
    found: dict[str, Any] = {"subject": row.subject, "ratios": _what(row)}
    if time := row.time:
        found["ms"] = _milliseconds(time.median)
        found["quartiles"] = f"{_milliseconds(time.low)} - {_milliseconds(time.high)}"
    if row.rate and row.unit:
        found[row.unit] = f"{row.rate:,.4g}"
    if row.peak_bytes:
        found["peak MiB"] = f"{row.peak_bytes / MIB:,.1f}"
    if facts := {key: value for key, value in row.facts.items() if value is not None}:
        found["counted"] = "\n".join(f"{key}: {_fact(value)}" for key, value in facts.items())
    return found


_TEXTS = ("subject", "ratios", "counted")
"""Headings of words, which may fold; the others are figures."""
_NARROW = 120


def _table(rows: Sequence[Row], headings: Sequence[str], widest: int | None) -> Table:
    made = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        is_text = heading in _TEXTS
        limit = widest if heading == "subject" else None
        made.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text, max_width=limit)
    case = None
    for row in rows:
        if row.case != case:
            made.add_section()
            made.add_row(Text(row.case, style="bold"))
            case = row.case
        cells = _cells(row)
        made.add_row(*(cells.get(heading, "" if heading in _TEXTS else "-") for heading in headings))
    return made


def tables(rows: Sequence[Row], console: Console) -> list[Table]:
    """Case, subject, median and quartiles, rate, memory, ratios, and what else was counted; nothing is cut."""
    known = {heading for row in rows for heading in _cells(row)}
    figures = ("ms", "quartiles", *dict.fromkeys(row.unit for row in rows if row.unit), "peak MiB")
    groups = [[heading for heading in group if heading in known] for group in (figures, ("ratios",), ("counted",))]
    widest = console.width // 2 if console.width < _NARROW else None
    return parted(lambda headings: _table(rows, headings, widest), "subject", groups, console)


def head(machine: dict[str, Any], quick: bool) -> list[str]:
    """What the figures belong to, in a few lines."""
    device = machine["device"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    absent = [name for name, version in machine["versions"].items() if version is None and name not in ("cuda",)]
    lines = [f"{device['name']}, {machine['date']}", versions]
    if device["kind"] == "cuda":
        lines[0] += f", driver {device['driver']}"
    else:
        lines[0] += f", {device['threads']} threads"
        lines.append("on a CPU, in reduced sizes; targets are about a GPU and are not judged here")
    if quick:
        lines.append("quick: fewer cases and repeats")
    if absent:
        lines.append(f"not installed: {', '.join(absent)}")
    return lines
