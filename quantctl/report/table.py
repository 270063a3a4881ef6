"""The comparison as a table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quantctl.output import parted, whole_width
from quantctl.report.compare import Comparison, Row, Spread
from quantctl.spec import SITES


def number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def spread(value: Spread, form: str = ".4f") -> str:
    """mean ± standard deviation."""
    if math.isnan(value.mean):
        return "-"
    return number(value.mean, form) + ("" if math.isnan(value.sd) else f" ± {value.sd:.4f}")


def memory(value: float) -> str:
    return "-" if math.isnan(value) else f"{value / 1e9:.2f} GB"


Show = Callable[[Row, bool], str]
QUALITY: dict[str, Show] = {
    "final loss": lambda row, _: spread(row.loss),
    "gap": lambda row, is_reference: "reference" if is_reference else spread(row.gap, "+.4f"),
    "largest gap": lambda row, is_reference: "-" if is_reference else number(row.largest_gap, "+.4f"),
    "validation": lambda row, _: spread(row.validation),
    "seeds": lambda row, _: str(len(row.runs)),
}
COST: dict[str, Show] = {
    "time": lambda row, _: "-" if math.isnan(row.slowdown) else f"{row.slowdown:.2f}x",
    "ms/iter": lambda row, _: number(row.milliseconds, ".0f"),
    "tokens/s": lambda row, _: number(row.tokens_per_second, ",.0f"),
    "peak memory": lambda row, _: memory(row.memory),
}
COLUMNS: dict[str, Show] = {"mode": lambda row, _: row.label, **QUALITY, **COST}
"""Heading -> what a row shows, given whether it is the reference. What matters most comes first."""


def cells(comparison: Comparison, headings: Iterable[str] = COLUMNS) -> list[list[str]]:
    """The table as text, a list a row."""
    return [
        [COLUMNS[heading](row, row.mode == comparison.reference) for heading in headings] for row in comparison.rows
    ]


def _table(comparison: Comparison, headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        is_name = heading == "mode"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for row in cells(comparison, headings):
        table.add_row(*map(Text, row))
    return table


def tables(comparison: Comparison, console: Console) -> list[Table]:
    """The columns in as few tables as the width takes: one, else quality and cost, else these in parts."""
    return parted(lambda headings: _table(comparison, headings), "mode", (QUALITY, COST), console)


_MOST_CALLS = 20


def products(row: Row) -> str:
    """What one run of the mode counted: quantized products by site and spec, and how attention was computed."""
    calls = [(site, spec, calls) for site, specs in sorted(row.calls.items()) for spec, calls in specs.items()]
    shown = [
        (f"{site} in {spec}" if site in SITES else f"{site} {spec}") + f" {sum(calls.values()):,}"
        for site, spec, calls in calls[:_MOST_CALLS]
    ] + ([f"and {len(calls) - _MOST_CALLS:,} more"] if len(calls) > _MOST_CALLS else [])
    quantized = any(site in SITES for site in row.calls)
    return ", ".join(shown if quantized else ["nothing quantized", *shown])


def render(comparison: Comparison, console: Console) -> RenderableType:
    """Rows of the clean runs, the products each mode ran, and the runs that were left out with their reason."""
    parts: list[RenderableType] = []
    if comparison.rows:
        parts += tables(comparison, console)
        parts += [Text(f"{comparison.caution}\n")] if comparison.caution else []
        parts += [Text(f"{label.rpartition(' ')[2]} {mode}\n", overflow="fold") for label, mode in comparison.legend]
        parts.append(Text("Products of one run, counted by the run itself:"))
        counted = Table.grid(padding=(0, 2, 0, 0))
        for row in comparison.rows:
            if row.runs[0].selectors:
                counted.add_row(Text(row.label, overflow="fold"), Text(products(row)))
        parts.append(Padding(counted, (0, 0, 0, 2), expand=False))
    else:
        parts.append(Text("No run is left to compare."))
    if comparison.left_out:
        parts.append(Text("\nNot averaged in:"))
        for run in comparison.left_out:
            loss = "no loss" if math.isnan(run.final_loss) else f"loss {run.final_loss:.4f}"
            reasons = "\n".join(map(str, run.marks))
            mode = comparison.labels[run.mode]
            parts.append(Text(f"  {run.name} ({mode}, {run.seed_words}, {loss})"))
            parts.append(Padding(Text(reasons), (0, 0, 0, 6), expand=False))
    return Group(*parts)


def show(comparison: Comparison, console: Console) -> None:
    """Print it; where nobody sees a width, none cuts the table."""
    if not console.is_terminal:
        console.width = max(console.width, whole_width(_table(comparison, list(COLUMNS)), console))
    console.print(render(comparison, console))
