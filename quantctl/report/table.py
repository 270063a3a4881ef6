"""The comparison as a table on the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

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


COLUMNS = {
    "mode": lambda row, _: row.mode,
    "seeds": lambda row, _: str(len(row.runs)),
    "final loss": lambda row, _: spread(row.loss),
    "validation": lambda row, _: spread(row.validation),
    "gap": lambda row, is_reference: "reference" if is_reference else spread(row.gap, "+.4f"),
    "largest gap": lambda row, is_reference: "-" if is_reference else number(row.largest_gap, "+.4f"),
    "ms/iter": lambda row, _: number(row.milliseconds, ".0f"),
    "time": lambda row, _: "-" if math.isnan(row.slowdown) else f"{row.slowdown:.2f}x",
    "tokens/s": lambda row, _: number(row.tokens_per_second, ",.0f"),
    "peak memory": lambda row, _: memory(row.memory),
}
"""Heading -> what a row shows, given whether it is the reference."""


def cells(comparison: Comparison) -> list[list[str]]:
    """The table as text, a list a row."""
    return [[show(row, row.mode == comparison.reference) for show in COLUMNS.values()] for row in comparison.rows]


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


def render(comparison: Comparison) -> RenderableType:
    """Rows of the clean runs, the products each mode ran, and the runs that were left out with their reason."""
    parts: list[RenderableType] = []
    if comparison.rows:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in COLUMNS:
            table.add_column(heading, justify="left" if heading == "mode" else "right", no_wrap=True)
        for row in cells(comparison):
            table.add_row(*row)
        parts += [table, Text("Products of one run, counted by the run itself:")]
        parts += [Text(f"  {row.mode:<18} {products(row)}") for row in comparison.rows if row.runs[0].selectors]
    else:
        parts.append(Text("No run is left to compare."))
    if comparison.left_out:
        parts.append(Text("\nNot averaged in:"))
        for run in comparison.left_out:
            loss = "no loss" if math.isnan(run.final_loss) else f"loss {run.final_loss:.4f}"
            reasons = "\n".join(map(str, run.marks))
            parts.append(Text(f"  {run.name} ({run.mode}, seed {run.seed}, {loss})"))
            parts.append(Padding(Text(reasons), (0, 0, 0, 6)))
    return Group(*parts)


def show(comparison: Comparison, console: Console) -> None:
    console.print(render(comparison))
