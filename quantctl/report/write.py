"""From runs to what a reader gets: the table on stdout, and a folder of pictures, page and data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from quantctl import output
from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError
from quantctl.output import printable
from quantctl.outside.packages import require
from quantctl.report.compare import REFERENCE, compare
from quantctl.report.export import as_csv
from quantctl.report.export import as_json as to_json
from quantctl.report.labels import as_runs_say, labels
from quantctl.report.run import Run
from quantctl.report.sources import find, is_events, load_or_mark


def _loaded(paths: Sequence[Path]) -> list[Run]:
    """The runs; one that cannot be read is marked with the reason. Raises the first reason if none can."""
    runs, problems = [], []
    for path in find(paths):
        run, problem = load_or_mark(path)
        runs.append(run)
        problems += [problem] if problem else []
    if len(problems) == len(runs) and problems:
        raise problems[0]
    return runs


def _require(reference: str, runs: Sequence[Run]) -> None:
    """Raises QuantctlError if no run is of the mode that the others are to be held against."""
    modes = dict.fromkeys(run.mode for run in runs if run.selectors)
    if reference not in modes:
        known = (
            f"the runs are of: {', '.join(labels(modes).values())}" if modes else "no run says which formats it used"
        )
        raise QuantctlError(f"--reference {printable(reference)}: no run here is of that mode", known)


def write(
    paths: Sequence[Path], folder: Path | None, title: str, reference: str | None = None, as_json: bool = False
) -> None:
    """Compare the runs at `paths`: print the table, or JSON, and fill `folder` if there is to be one.

    The reference that is asked for must be there; bf16, which is taken without one, need not. Raises QuantctlError
    when no run can be read, and without matplotlib where there is a folder.
    """
    drawn = ("matplotlib",) if folder is not None else ()
    require("this report", {"report": (*drawn, *(("tensorboard",) if any(map(is_events, find(paths))) else ()))})
    runs = _loaded(paths)
    if reference is not None:
        reference = as_runs_say(reference)
        _require(reference, runs)
    comparison = compare(runs, reference or REFERENCE)
    data = json.dumps(to_json(comparison), indent=2) + "\n"
    if folder is not None:
        from quantctl.report import charts
        from quantctl.report.page import html

        folder.mkdir(parents=True, exist_ok=True)
        for name in charts.PICTURES:
            charts.png(name, comparison, folder / f"{name}.png")
        for name, text in (("html", html(comparison, title)), ("csv", as_csv(comparison)), ("json", data)):
            write_new(folder / f"report.{name}", text.encode("utf-8", "backslashreplace"))
    if as_json:
        click.echo(data, nl=False)
    else:
        from rich.console import Console

        from quantctl.report.table import show

        show(comparison, Console(width=None if Console().is_terminal else 160))
    if folder is not None:
        sys.stdout.flush()
        output.say(f"\nbeside the page: its pictures, report.csv and report.json\npage: {folder}/report.html")
