"""`quantctl report`: what the formats cost, from the runs' own records."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="compare runs: loss gap, speed, memory, what was quantized")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--reference", help="The mode that the others are held against.  [default: bf16]")
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for gap.png, course.png, loss.png, report.html, .csv and .json.",
)
@click.option("--title", default="What the formats cost", show_default=True, help="Heading of the page.")
@click.pass_context
def command(ctx: click.Context, runs: tuple[Path, ...], reference: str | None, folder: Path | None, title: str) -> None:
    """Compare runs at matched steps and seeds.

    \b
    quantctl report runs/*                    the table
    quantctl report runs/sweep --output cost  in cost/ pictures, page, CSV, JSON

    RUN is a run directory, a folder of them, a Megatron-LM log, or a folder of TensorBoard event files. Runs that
    diverged, were killed, resumed or not proven, those of another experiment (other data, flags, tree or package
    versions than the reference's), and what cannot be read are listed with the reason and never averaged in.
    """
    from quantctl.report.write import write

    write(runs, folder, title, reference, ctx.obj["json"])
