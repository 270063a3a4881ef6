"""How far a sweep is: a live table with a bar on a terminal, a line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from quantctl.runs.runlog import Point
from quantctl.sweep.runner import Job, State

_COLOURS = {State.FAILED: "bold red", State.RUNNING: "cyan", State.FINISHED: "green", State.FOUND: "green"}
_REFRESH = 1.0
"""Seconds between two readings of the logs."""


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _loss(point: Point | None) -> str:
    """Nothing where there is none: the loss scaler skips the first steps in fp16."""
    return "" if point is None or point.is_skipped else f"{point.loss:.4f}"


class Watch:
    """Called with the jobs as they go."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.started = time.monotonic()
        self.read_at = 0.0
        self.points: dict[str, Point] = {}
        self.told: dict[str, State] = {}

    def __call__(self, jobs: Sequence[Job]) -> None:
        if self.live is None:
            self._tell(jobs)
        elif time.monotonic() - self.read_at > _REFRESH:
            self._read(jobs)
            self.live.update(self._table(jobs), refresh=True)

    def _read(self, jobs: Sequence[Job]) -> None:
        self.read_at = time.monotonic()
        for job in jobs:
            if (job.state is State.RUNNING or str(job.task.run_dir) not in self.points) and (points := job.points):
                self.points[str(job.task.run_dir)] = points[-1]

    def _tell(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            name = str(job.task.run_dir)
            if job.state is not self.told.get(name, State.WAITING):
                self.told[name] = job.state
                last = _loss(next(reversed(job.points), None)) if job.is_over else ""
                loss = f", loss {last}" if last else ""
                took = f" in {_clock(job.seconds)}" if job.seconds else ""
                over = sum(other.is_over for other in jobs)
                left = f"; {self._left(jobs)}" if job.state is State.FINISHED and over < len(jobs) else ""
                line = f"[{over}/{len(jobs)}] {job.task.name}: {job.state.value}{took}{loss}{left}"
                self.console.print(line, markup=False, highlight=False)

    def _done(self, mine: Sequence[Job]) -> float:
        """How many of the jobs are done; of one under way, the share of its iterations."""
        done = 0.0
        for job in mine:
            point = self.points.get(str(job.task.run_dir))
            if job.is_over:
                done += 1
            elif point is not None and job.state is State.RUNNING:
                done += point.iteration / max(point.total, 1)
        return done

    def _left(self, jobs: Sequence[Job]) -> str:
        """Time left, from the share of all iterations that this call has done so far."""
        mine = [job for job in jobs if job.state is not State.FOUND]
        done = self._done(mine)
        if done < 0.05:
            return "time left: not known yet"
        return f"{_clock((time.monotonic() - self.started) * (len(mine) - done) / done)} left"

    def _table(self, jobs: Sequence[Job]) -> RenderableType:
        """The runs under way and the last that ended, and below them a bar over all."""
        models = len({job.task.model for job in jobs}) > 1
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("run", *(["model"] if models else []), "state", "iteration", "loss"):
            table.add_column(heading, no_wrap=heading != "run", overflow="fold")
        shown = [job for job in jobs if job.state is not State.WAITING]
        for job in shown[-max(self.console.height - 8, 5) :]:
            point = self.points.get(str(job.task.run_dir))
            state = Text(job.state.value, style=_COLOURS.get(job.state, ""))
            where = f"{point.iteration}/{point.total}" if point else ""
            table.add_row(job.task.name, *([job.task.model] if models else []), state, where, _loss(point))
        over = sum(job.is_over for job in jobs)
        bar = ProgressBar(total=len(jobs), completed=self._done(jobs), width=min(40, self.console.width - 4))
        return Group(table, Padding(bar, (0, 0, 0, 2)), Text(f"  {over} of {len(jobs)} done, {self._left(jobs)}"))


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A Watch whose live display ends with the block."""
    watch = Watch(console)
    if watch.live is None:
        yield watch
        return
    with watch.live:
        yield watch
