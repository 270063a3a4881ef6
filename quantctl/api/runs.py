"""`quantctl.load_runs`: finished runs as a table, with what disqualifies one beside it."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.output import columns
from quantctl.outside.packages import is_there
from quantctl.report.compare import REFERENCE, compare, gaps
from quantctl.report.curve import tail_mean
from quantctl.report.export import run_data
from quantctl.report.run import Run
from quantctl.report.sources import find, load_or_mark

Row = dict[str, Any]


@dataclass(frozen=True)
class Table(Sequence[Row]):
    """Rows with the same keys; a value that a run does not know is None."""

    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return Table(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def column(self, name: str) -> list[Any]:
        """One key of every row. Raises QuantctlError for a key that they do not have."""
        if self.rows and name not in self.rows[0]:
            raise QuantctlError(f"there is no column {name!r}", f"there are: {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a column a key. Raises QuantctlError without pandas."""
        if not is_there("pandas"):
            raise QuantctlError("to_pandas needs pandas, which is not installed", "pip install pandas")
        import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]

        return pandas.DataFrame(list(self.rows))

    def __str__(self) -> str:
        simple = [name for name, value in (self.rows[0] if self.rows else {}).items() if not isinstance(value, dict)]
        return columns([simple, *([_shown(row[name]) for name in simple] for row in self.rows)])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value in (None, []) else "; ".join(value) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Runs(Table):
    """One row a run; see `load_runs`."""

    losses: Table = Table(())
    """One row a run and logged iteration: run, mode, seed, iteration, loss (nats a token)."""


_GIVE = "give run directories, or a folder of them"


def _expanded(paths: Iterable[Any]) -> list[Path]:
    found = []
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise QuantctlError(f"a path is of type {type(path).__name__}, not a text", _GIVE)
        text = os.path.expanduser(str(path))
        matches = sorted(glob.glob(text))
        if not matches:
            raise QuantctlError(f"{text or repr(text)}: there is no such file or folder", _GIVE)
        found += [Path(match) for match in matches]
    return found


def _row(run: Run, references: Mapping[int | None, Run]) -> Row:
    known = run_data(run)
    gap = tail_mean(gaps(run, references[run.seed])) if run.is_clean and run.seed in references else math.nan
    ahead = {key: known.pop(key) for key in ("path", "mode", "seed", "final_loss")}
    marks = [str(mark) for mark in run.marks]
    return {**ahead, "gap": gap if math.isfinite(gap) else None, "clean": run.is_clean, **known, "marks": marks}


def load_runs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], reference: str = REFERENCE) -> Runs:
    """Runs as a table: what `quantctl report` reads, one row a run.

    paths: run directories, folders of them, Megatron-LM's logs or TensorBoard folders; `*` as in a shell. reference:
    the mode that gaps are held against, at the same seed.

    Keys: path, mode, seed, final_loss (mean over the last quarter, nats a token), gap (final_loss minus that of the
    reference's run of the same seed, at the steps that both logged), clean, selectors, iterations, milliseconds (a
    step), peak_memory_bytes, tree, packages, marks (why a run is averaged nowhere, as texts). `losses` is a table of
    the curves. Raises QuantctlError for a path that is not there or holds no run.
    """
    several = isinstance(paths, Iterable) and not isinstance(paths, (str, bytes, os.PathLike))
    given: list[Any] = list(paths) if several else [paths]  # type: ignore[arg-type]
    runs = [load_or_mark(path)[0] for path in find(_expanded(given))]
    comparison = compare(runs, reference)
    references = {run.seed: run for row in comparison.rows if row.mode == reference for run in row.runs}
    rows = tuple(_row(run, references) for run in comparison.runs)
    losses = tuple(
        {"run": str(run.path), "mode": run.mode, "seed": run.seed, "iteration": iteration, "loss": loss}
        for run in comparison.runs
        for iteration, loss in run.losses.items()
    )
    return Runs(rows, Table(losses))
