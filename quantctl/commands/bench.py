"""`quantctl bench`: how fast the kernels and a training step are, against what limits them and against others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantctl import output
from quantctl.commands._common import describe, tree_in_use
from quantctl.commands._options import Choice
from quantctl.errors import DIFFERS
from quantctl.outside.packages import require

if TYPE_CHECKING:
    from quantctl.bench.machine import Setting
    from quantctl.bench.result import Row

BENCHES = {
    "qdq": "quantize-dequantize, each format and axis, against copy bandwidth",
    "linear": "Llama 8B's and 1B's linear layers, forward + backward, against bf16",
    "grouped": "the experts of an MoE layer, against published bf16 figures",
    "attention": "fused attention, forward + backward, against SDPA and unfused",
    "step": "Megatron's training step in ten modes, against the stock tree",
}
DEFAULT = ("qdq", "linear", "grouped", "attention")


@click.command(
    short_help="measure the kernels and a training step",
    epilog="\b\n" + "\n".join(f"{name:<10} {what}" for name, what in BENCHES.items()),
)
@click.argument("names", nargs=-1, type=Choice(list(BENCHES), "benchmark"), metavar="[NAME ...]")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Also draw the ratios into this file.")
@click.option("--device", type=Choice(["cpu", "cuda"]), help="Default: the GPU where there is one.")
@click.option("--quick", is_flag=True, help="Fewer cases and repeats.")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], png: Path | None, device: str | None, quick: bool) -> None:
    """Measure. Without a NAME: qdq, linear, grouped, attention.

    All subjects of a case are timed in turns on one device; a ratio is of medians in one run. On a CPU the sizes are
    smaller, and one thread and all are measured. A case that fails is a row with its reason. How it is measured:
    docs/bench.md.

    Exit status 1 if one of our own cases failed for another reason than the size of the device, or gave other bits than
    the reference.
    """
    drawn = {"report": ("matplotlib",)} if png else {}
    require("bench", {"kernels": ("torch", "numpy"), **drawn})
    from quantctl.bench import machine
    from quantctl.bench.result import document
    from quantctl.bench.table import head

    setting = machine.Setting(machine.choose_device(device), quick)
    facts = machine.describe(setting)
    lines = head(facts, quick)
    for line in lines:
        output.say(line)
    rows: list[Row] = []
    try:
        for name in dict.fromkeys(names or DEFAULT):
            first = len(rows)
            try:
                for row in _rows(name, setting, ctx):
                    rows.append(row)  # one by one: a later one may fail
            finally:
                if rows[first:] and not ctx.obj["json"]:
                    _show(name, rows[first:])
    finally:  # interrupted, or ended by an error: what was measured is not lost
        if ctx.obj["json"]:
            output.data(document(rows, facts, quick=quick))
        if png is not None and rows:
            from quantctl.bench.picture import draw

            draw(rows, "\n".join(lines), png)
            output.say(f"picture: {png}")
    ctx.exit(DIFFERS if any(row.is_finding for row in rows) else 0)


def _rows(name: str, setting: Setting, ctx: click.Context) -> Iterator[Row]:
    """The rows of one benchmark; a line on stderr for each subject when its turn comes. On a CPU with each number of
    threads."""
    from quantctl.bench import machine

    module = importlib.import_module(f"quantctl.bench.{name}")

    def say(subject: str) -> None:
        output.say(f"  {name}: {subject}")

    trees = []
    if name == "step":
        trees.append(tree_in_use(ctx))
        output.say(f"tree: {describe(trees[0])}")
    counts = machine.thread_counts(setting)
    for count in counts:
        with machine.threads(count) if not setting.full else nullcontext():
            for row in module.rows(setting, say, *trees):
                threads = f", {count} thread{'s' if count > 1 else ''}"
                yield row if len(counts) == 1 else replace(row, case=row.case + threads)


def _show(name: str, rows: list[Row]) -> None:
    from rich.console import Console

    from quantctl.bench.table import tables

    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    console.print(f"{BENCHES[name]}\n", style="italic", soft_wrap=True)
    for table in tables(rows, console):
        console.print(table)
