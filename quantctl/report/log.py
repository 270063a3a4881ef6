"""What the lines of a training's log tell a report, in one pass: a log may be longer than memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from quantctl.outside.numbers import DIGITS
from quantctl.report.curve import Curve
from quantctl.runs import recipe as recipes
from quantctl.runs.attempts import Follower
from quantctl.runs.runlog import NUMBER, PREFIX, Point, follow

_VALUE = "| lm loss value: "
_VALIDATION = re.compile(rf"validation\S{{0,100}} loss at (?:iteration )?({DIGITS})(?![0-9]| on test set)")
_LOSS = re.compile(rf"({NUMBER}|nan|[-+]?inf)(?![0-9.eE])")
_BEHIND_MEMORY = "memory (MB) |"
_PEAK = re.compile(rf"max (?:allocated|resident): ({NUMBER})")
_INTERVAL = re.compile(rf"(?:^{PREFIX} {{2}}log_interval \.{{3,}}|--log-interval[ =]) *({DIGITS})(?![0-9])")
_START = re.compile(
    rf"{PREFIX} *(?:-+ arguments -+$|loading checkpoint from |will not load any checkpoints and will start )"
)
"""What rank 0 says before it trains: Megatron-LM its arguments, always; the embedded trainer what --load found."""


def told_interval(line: str) -> int | None:
    """Iterations from one logged iteration to the next, as a command line or a line of a log says."""
    found = _INTERVAL.findall(line) if "log" in line and "interval" in line else []
    return max(int(found[-1]), 1) if found else None


@dataclass
class Log:
    """What was read so far."""

    curve: Curve = field(default_factory=Curve)
    validation: dict[int, float] = field(default_factory=dict)
    memory: float | None = None
    """Peak, bytes."""
    recipe: recipes.Recipe = field(default_factory=dict)
    interval: int | None = None
    """Iterations from one logged iteration to the next, as the run was told."""
    starts: int = 0
    """How often rank 0 said that it begins."""
    trained_before: bool = False
    """Whether there are iterations in front of the last start."""
    first: int | None = None
    """The iteration that was logged first behind the last start."""

    def began_anew(self, told: bool) -> bool:
        """Whether one process wrote all iterations, from the first on: earlier attempts trained nothing.

        It did if the last start that rank 0 told of lies before all of them, as a start that goes on from a checkpoint
        is told by both trainers. One that tells nothing where it always begins at the first iteration (not `told`)
        would repeat what an earlier attempt logged.
        """
        return bool(self.starts or not told) and self.first == 1 and not self.trained_before

    def take(self, line: str, point: Point | None) -> None:
        """Read one line and the point that it reports."""
        if point is None:
            self._told(line)
        else:
            self.curve.add(point)
            if self.first is None:
                self.first = point.iteration
        if _VALUE in line:
            self._validation(line)
        if _BEHIND_MEMORY in line and (found := _PEAK.search(line, line.index(_BEHIND_MEMORY))):
            self.memory = max(self.memory or 0.0, float(found[1]) * 2**20)

    def _told(self, line: str) -> None:
        if " ..." in line and (pair := recipes.dumped(line)):
            self.recipe[pair[0]] = pair[1]
        self.interval = told_interval(line) or self.interval
        if ("checkpoint" in line or " arguments " in line) and _START.match(line):
            self.starts += 1
            self.trained_before, self.first = bool(self.curve), None

    def _validation(self, line: str) -> None:
        # of a line's parts, each ends in front of a loss
        for head, behind in pairwise(line.split(_VALUE)):
            places, loss = list(_VALIDATION.finditer(head)), _LOSS.match(behind)
            if places and loss:
                self.validation[int(places[-1][1])] = float(loss[1])


def read(lines: Iterable[str]) -> tuple[Log, Follower]:
    """Everything that the lines which count tell, and which those were."""
    log, follower = follow(lines, Log)
    log.curve.close()
    return log, follower
