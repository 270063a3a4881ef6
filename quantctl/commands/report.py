"""`quantctl report`: what the formats cost, from the runs' own records."""

from __future__ import annotations

from pathlib import Path

import click

from quantctl import output
from quantctl.errors import QuantctlError


@click.command(short_help="compare runs: loss gap, speed, memory, what was quantized")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--reference", default="bf16", show_default=True, help="The mode that the others are held against.")
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for loss.png, gap.png, report.html, .csv and .json.",
)
@click.option("--title", default="What the formats cost", show_default=True, help="Heading of the page.")
@click.pass_context
def command(ctx: click.Context, runs: tuple[Path, ...], reference: str, folder: Path | None, title: str) -> None:
    """Compare runs at matched steps and seeds.

    \b
    quantctl report runs/*                     the table
    quantctl report runs/sweep --output cost   and pictures, a page, CSV, JSON in cost/

    RUN is a run directory, a folder of them, a Megatron-LM log, or a folder of TensorBoard event files. Runs that
    diverged, were killed, resumed or not proven, and those of another experiment (other data, flags, tree or package
    versions than the reference's) are listed with the reason and never averaged in.
    """
    from quantctl.report.compare import compare
    from quantctl.report.export import as_csv, as_json
    from quantctl.report.run import find, load

    loaded, unreadable = [], []
    for path in find(runs):
        try:
            loaded.append(load(path))
        except QuantctlError as error:
            unreadable.append(error)
    if not loaded and unreadable:
        raise unreadable[0]
    for error in unreadable:
        output.say(f"left out: {error.message}")
    comparison = compare(loaded, reference)
    if folder is not None:
        from quantctl.report import charts
        from quantctl.report.page import html

        folder.mkdir(parents=True, exist_ok=True)
        for name in charts.PICTURES:
            charts.png(name, comparison, folder / f"{name}.png")
        (folder / "report.html").write_text(html(comparison, title))
        (folder / "report.csv").write_text(as_csv(comparison))
        output.say(f"written: {folder}/report.html, .csv, .json, " + ", ".join(f"{n}.png" for n in charts.PICTURES))
    import json

    text = json.dumps(as_json(comparison), indent=2) + "\n"
    if folder is not None:
        (folder / "report.json").write_text(text)
    if ctx.obj["json"]:
        click.echo(text, nl=False)
        return
    from rich.console import Console

    from quantctl.report.table import show

    show(comparison, Console(width=None if Console().is_terminal else 160))
