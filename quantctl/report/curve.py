"""What a run logged, iteration by iteration, in columns: a million of them take 25 MB."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median

from quantctl.runs.runlog import BATCH, FLOAT32, TIME, Point, Step

TAIL = 0.25
"""Share of a run, at its end, over which losses and gaps are averaged."""


@dataclass
class Curve:
    """The points of one run by iteration; of one that a resumed run repeats, the last."""

    iterations: array[int] = field(default_factory=lambda: array("q"))
    _losses: array[float] = field(default_factory=lambda: array("d"))
    _times: array[float] = field(default_factory=lambda: array("d"))
    _steps: bytearray = field(default_factory=bytearray)
    total: int = 0
    """Iterations that the run is meant to have, as the last line says."""
    batch: float = math.nan
    """Sequences of a step, as the last line says."""
    repeats: bool = False
    """Whether iterations were logged more than once, or backwards."""

    @staticmethod
    def of(points: Iterable[Point]) -> Curve:
        """The curve of points in the order they were written."""
        curve = Curve()
        for point in points:
            curve.add(point)
        curve.close()
        return curve

    def __len__(self) -> int:
        return len(self.iterations)

    def add(self, point: Point) -> None:
        """The next point as it was written; `close` follows the last one."""
        iteration, self.total, fields = point
        loss, step = point.loss_and_step
        iterations = self.iterations
        if iterations and iteration <= iterations[-1]:
            self.repeats = True
        iterations.append(iteration)
        # no sum of the others overflows
        self._losses.append(loss if abs(loss) <= FLOAT32 else math.nan)
        self._steps.append(step)
        self._times.append(fields.get(TIME, math.nan))
        self.batch = fields.get(BATCH, math.nan)

    def close(self) -> None:
        """Put repeated iterations in order."""
        if not self.repeats:
            return
        order = sorted({iteration: at for at, iteration in enumerate(self.iterations)}.items())
        places = [at for _, at in order]
        self.iterations = array("q", (self.iterations[at] for at in places))
        self._losses = array("d", (self._losses[at] for at in places))
        self._times = array("d", (self._times[at] for at in places))
        self._steps = bytearray(self._steps[at] for at in places)

    @property
    def last(self) -> int | None:
        """The last iteration that was logged."""
        return self.iterations[-1] if self.iterations else None

    @cached_property
    def losses(self) -> dict[int, float]:
        """By iteration; without those that the loss scaler skipped."""
        rows, skipped = zip(self.iterations, self._losses, self._steps, strict=True), Step.SKIPPED
        return {iteration: loss for iteration, loss, step in rows if step != skipped}

    @property
    def first_diverged(self) -> int | None:
        at = self._steps.find(Step.DIVERGED)
        return None if at < 0 else self.iterations[at]

    @property
    def milliseconds(self) -> float:
        """Median time of an iteration, the first line left out (it holds the start-up); NaN if it was not recorded."""
        first = min(1, len(self) - 1)
        rows, skipped = zip(self._times[first:], self._steps[first:], strict=True), Step.SKIPPED
        return median([time for time, step in rows if step != skipped and math.isfinite(time)] or [math.nan])

    @property
    def interval(self) -> int:
        """Iterations from one logged iteration to the next, at most."""
        return max((later - earlier for earlier, later in pairwise(self.iterations)), default=1)

    def skipped(self, share: float) -> tuple[int, int]:
        """How many of the logged iterations in this share at the end the loss scaler skipped, and how many they are."""
        steps = self._steps[len(self) - math.ceil(share * len(self)) :]
        return steps.count(Step.SKIPPED), len(steps)


def tail_mean(values: dict[int, float]) -> float:
    """Mean over the iterations of the last quarter; NaN for no values."""
    if not values:
        return math.nan
    last = max(values)
    return fmean(value for iteration, value in values.items() if iteration > last * (1 - TAIL) or iteration == last)
