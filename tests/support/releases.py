"""Prints one table: release x what was done with it. `make releases`; arguments go to pytest."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1] / "patches" / "test_releases.py"
COLUMNS = {
    "test_edits": ("patch", "set", "check", "restore"),
    "test_golden": ("golden",),
    "test_none_is_stock_in_every_bit": ("none-identity",),
    "test_each_selector_reaches_its_products_and_no_others": ("hits",),
}
"""By test: the cells that it fills in, each under the name that the test records once it is done."""


class Cells:
    """Collects the outcome of every test, from all workers."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, str]] = defaultdict(dict)
        self.reasons: dict[str, int] = {}

    def _outcome(self, report: pytest.TestReport, column: str) -> str:
        if ("done", column) in report.user_properties:
            return "[green]yes"
        if not report.skipped:
            return "[red]FAILED"
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "skipped"
        return f"[yellow]({self.reasons.setdefault(reason, len(self.reasons) + 1)})"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, parameter = report.nodeid.rpartition("::")[2].partition("[")
        if report.when == "call" or not report.passed:
            for column in COLUMNS.get(test, ()):
                self.cells[parameter.rstrip("]")][column] = self._outcome(report, column)

    def show(self) -> None:
        columns = [column for group in COLUMNS.values() for column in group]
        table = Table("release", *columns)
        for release, cells in sorted(self.cells.items(), key=lambda item: _order(item[0])):
            table.add_row(release, *(cells.get(column, "not run") for column in columns))
        console = Console(width=100)
        console.print(table)
        for reason, number in self.reasons.items():
            console.print(f"({number}) cannot run here: {reason}")


def _order(release: str) -> list[float]:
    return [float(part) if part.isdigit() else float("inf") for part in release.split(".")]


if __name__ == "__main__":
    cells = Cells()
    status = pytest.main([str(TESTS), "-m", "", *sys.argv[1:]], plugins=[cells])
    cells.show()
    sys.exit(status)
