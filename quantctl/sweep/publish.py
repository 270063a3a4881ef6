"""The tables and pictures of the published comparison, in the documents that show them.

A table stands below a line `<!-- table: NAME -->` and two lines of head; its rows are replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.report import heat
from quantctl.report.charts import Interval, forest
from quantctl.report.compare import Spread
from quantctl.report.pictures import as_png
from quantctl.sweep import claims
from quantctl.sweep.sizes import SMALL

PUBLISHED = Path("docs") / "evidence"
SHOWN = ("bf16", "FA_mxfp8", "linear_mxfp8", "linear_mxfp4", "linear=hifp8:scale=tensor")
"""The modes of the first page."""
DRAWN = ("linear fprop input", "linear dgrad gradient", "linear wgrad gradient")
"""The operands whose SQNR is drawn."""
DOCUMENTS = (Path("README.md"), Path("README.zh.md"), Path("docs") / "evidence.md")
_MARK = re.compile(r"<!-- table: (\w+) -->\s*")
Tables = dict[str, list[str]]


def _number(value: dict[str, float], form: str = ".4f") -> str:
    return f"{value['mean']:{form}} ± {value['sd']:.4f}"


def _gap(mode: dict[str, Any]) -> str:
    return "reference" if mode["mode"] == "bf16" else _number(mode["gap"], "+.4f")


def rows(report: dict[str, Any], shown: Collection[str] = ()) -> list[str]:
    """What each mode costs, or each of `shown`."""
    return [
        f"| `{mode['mode']}` | {_number(mode['final_loss'])} | {_gap(mode)} |"
        for mode in report["modes"]
        if not shown or mode["mode"] in shown
    ]


def operands(report: dict[str, Any]) -> list[str]:
    """What the recorded formats do to each operand."""
    statistics = {mode["mode"]: mode["statistics"] for mode in report["modes"]}
    recorded = [statistics[mode] for mode in SMALL.recorded]
    cells = [
        [operand, *(f"{one[operand]['sqnr']:.1f} dB, {one[operand]['underflow']:.2%}" for one in recorded)]
        for operand in recorded[0]
    ]
    return [f"| {' | '.join(row)} |" for row in cells]


def tables(folder: Path = PUBLISHED) -> Tables:
    """The rows of every table, by name, of the reports that the folder holds."""
    reports = claims.reports(folder)
    found = {name: rows(report) for name, report in reports.items()}
    if SMALL.name in reports:
        found |= {"shown": rows(reports[SMALL.name], SHOWN), "operands": operands(reports[SMALL.name])}
    return found | {"claims": [claims.row(one) for one in claims.verdicts(folder)]}


def updated(document: str, found: Tables) -> str:
    """The document with its tables' rows replaced. Raises QuantctlError if it has no such table."""
    lines = document.splitlines()
    made: list[str] = []
    place = marks = 0
    while place < len(lines):
        made.append(lines[place])
        mark = _MARK.fullmatch(lines[place])
        place += 1
        if mark is None or mark[1] not in found:
            continue
        marks += 1
        made += [*lines[place : place + 2], *found[mark[1]]]
        place += 2
        while place < len(lines) and lines[place].startswith("|"):
            place += 1
    if not marks:
        raise QuantctlError("the document has no table of the published figures", "add a line <!-- table: small -->")
    return "\n".join(made) + "\n"


def draw_gaps(folder: Path, size: str) -> None:
    """The picture of the gaps that the folder's report of that size holds, the least first."""
    report = json.loads((folder / f"{size}.json").read_text())
    losses = claims.losses(report)
    found = [
        Interval(
            mode["mode"],
            Spread(mode["gap"]["mean"], mode["gap"]["sd"]),
            [losses[mode["mode"], seed] - losses[report["reference"], seed] for seed in mode["seeds"]],
        )
        for mode in sorted(report["modes"], key=lambda mode: mode["gap"]["mean"])
        if mode["mode"] != report["reference"]
    ]
    as_png(forest(found, report["reference"]), folder / f"{size}.png")


def draw_statistics(runs: Sequence[Path], folder: Path = PUBLISHED) -> None:
    """The recorded formats side by side."""
    every = [row for run in runs for row in heat.read(run)]
    heat.png([row for row in every if heat.operand(row) in DRAWN], heat.QUANTITIES[0], folder / "sqnr.png")
