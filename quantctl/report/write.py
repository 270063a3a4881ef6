"""From runs to what a reader gets: the table on stdout, and a folder of pictures, page and data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from quantctl import output
from quantctl.errors import QuantctlError
from quantctl.report.compare import REFERENCE, compare
from quantctl.report.export import as_csv
from quantctl.report.export import as_json as to_json
from quantctl.report.run import Run, find, load


def _loaded(paths: Sequence[Path]) -> list[Run]:
    """The runs that can be read; what cannot is said, and raised if nothing else is there."""
    runs, problems = [], []
    for path in find(paths):
        try:
            runs.append(load(path))
        except QuantctlError as error:
            problems.append(error)
    if problems and not runs:
        raise problems[0]
    for problem in problems:
        output.say(f"left out: {problem.message}")
    return runs


def require_matplotlib() -> None:
    """Raises QuantctlError if no picture can be drawn: better before the runs are made than behind them."""
    if find_spec("matplotlib") is None:
        raise QuantctlError("the report's pictures need matplotlib", "pip install 'quantctl[report]'")


def write(
    paths: Sequence[Path], folder: Path | None, title: str, reference: str = REFERENCE, as_json: bool = False
) -> None:
    """Compare the runs at `paths`: print the table, or JSON, and fill `folder` if there is to be one.

    Raises QuantctlError when no run can be read, and without matplotlib where there is a folder.
    """
    if folder is not None:
        require_matplotlib()
    comparison = compare(_loaded(paths), reference)
    data = json.dumps(to_json(comparison), indent=2) + "\n"
    if folder is not None:
        from quantctl.report import charts
        from quantctl.report.page import html

        folder.mkdir(parents=True, exist_ok=True)
        for name in charts.PICTURES:
            charts.png(name, comparison, folder / f"{name}.png")
        (folder / "report.html").write_text(html(comparison, title))
        (folder / "report.csv").write_text(as_csv(comparison))
        (folder / "report.json").write_text(data)
        output.say(f"written: {folder}/report.html, .csv, .json, " + ", ".join(f"{n}.png" for n in charts.PICTURES))
    if as_json:
        click.echo(data, nl=False)
        return
    from rich.console import Console

    from quantctl.report.table import show

    show(comparison, Console(width=None if Console().is_terminal else 160))
