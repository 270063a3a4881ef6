"""The rows for people: a table a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from quantctl.bench.result import Ratio, Row

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


def table(name: str, rows: Sequence[Row]) -> Table:
    """Case, subject, median and quartiles, rate, memory, ratios, and what else was counted."""
    made = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left")
    rated = next((row.unit for row in rows if row.unit), None)
    memory = any(row.peak_bytes for row in rows)
    columns = ["subject", "ms", "quartiles", *([rated] if rated else []), *(["peak MiB"] if memory else [])]
    for column in columns:
        made.add_column(column, justify="left" if column == "subject" else "right", no_wrap=True)
    made.add_column("ratios")
    made.add_column("counted")
    case = None
    for row in rows:
        if row.case != case:
            made.add_section()
            made.add_row(Text(row.case, style="bold"))
            case = row.case
        time = row.time
        cells: list[Any] = [row.subject, "-", "-"]
        if time:
            cells[1:] = [_milliseconds(time.median), f"{_milliseconds(time.low)} - {_milliseconds(time.high)}"]
        cells += [f"{row.rate:,.4g}" if row.rate else "-"] if rated else []
        cells += [f"{row.peak_bytes / MIB:,.1f}" if row.peak_bytes else "-"] if memory else []
        counted = "\n".join(f"{key}: {_fact(value)}" for key, value in row.facts.items() if value is not None)
        made.add_row(*cells, _what(row), counted)
    return made


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
