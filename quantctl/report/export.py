"""The comparison as data: JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from quantctl.output import SCHEMA
from quantctl.report import heat
from quantctl.report.compare import Comparison, Row, Spread, gaps
from quantctl.report.run import Run


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _spread(value: Spread) -> dict[str, float | None]:
    return {"mean": _plain(value.mean), "sd": _plain(value.sd)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "mode": row.mode,
        "seeds": row.seeds,
        "runs": [str(run.path) for run in row.runs],
        "final_loss": _spread(row.loss),
        "validation_loss": _spread(row.validation),
        "gap": _spread(row.gap),
        "largest_gap": _plain(row.largest_gap),
        "milliseconds": _plain(row.milliseconds),
        "time_ratio": _plain(row.slowdown),
        "tokens_per_second": _plain(row.tokens_per_second),
        "peak_memory_bytes": _plain(row.memory),
        "calls": row.calls,
        "statistics": heat.summary(row.statistics),
    }


def run_data(run: Run) -> dict[str, Any]:
    """One run, its marks included. Unknown figures are None."""
    return {
        "path": str(run.path),
        "mode": run.mode,
        "seed": run.seed,
        "selectors": run.selectors,
        "iterations": run.curve.last or 0,
        "final_loss": _plain(run.final_loss),
        "milliseconds": _plain(run.milliseconds),
        "peak_memory_bytes": _plain(run.memory),
        "tree": run.tree,
        "packages": run.packages,
        "marks": [{"trouble": mark.trouble.name.lower(), "detail": mark.detail} for mark in run.marks],
    }


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Rows of the clean runs, and every run with its marks. Unknown figures are null."""
    return {
        "schema_version": SCHEMA,
        "reference": comparison.reference,
        "modes": [_row(row) for row in comparison.rows],
        "runs": [run_data(run) for run in comparison.runs],
    }


def _digits(value: float | None) -> str:
    """As many as a log writes, and a float32 has: what lies behind them is noise."""
    return "" if value is None else f"{value:.7g}"


def as_csv(comparison: Comparison) -> str:
    """One line a run and iteration: path, mode, seed, whether it was averaged in, iteration, loss, gap."""
    references = {run.seed: run for row in comparison.rows if row.mode == comparison.reference for run in row.runs}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "mode", "seed", "clean", "iteration", "loss", "gap"])
    for run in comparison.runs:
        reference = references.get(run.seed)
        gap = gaps(run, reference) if reference and run.is_clean else {}
        for iteration, loss in run.losses.items():
            figures = _digits(loss), _digits(gap.get(iteration))
            writer.writerow([run.path, run.mode, run.seed, int(run.is_clean), iteration, *figures])
    return text.getvalue()
