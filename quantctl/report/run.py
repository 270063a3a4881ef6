"""One run: what it reported, and why it may not be averaged with others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from quantctl.output import printable, shortened
from quantctl.outside.numbers import real
from quantctl.report.curve import Curve, tail_mean
from quantctl.report.heat import Row
from quantctl.report.labels import mode_of
from quantctl.runs import recipe as recipes
from quantctl.runs.proof import Calls

_SKIPPED_SHARE = 0.5
"""Share of a run, at its end, of which at least half the steps are to be taken."""


class Trouble(Enum):
    """Why a run is shown but never averaged with others."""

    UNREADABLE = "unreadable"
    KILLED = "killed, or still running"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    RESUMED = "resumed"
    DIVERGED = "diverged"
    UNPROVEN = "formats not proven"
    MISMATCHED = "another experiment"
    ALONE = "nothing to compare with"


@dataclass(frozen=True)
class Mark:
    """A trouble of one run, in words."""

    trouble: Trouble
    detail: str

    def __str__(self) -> str:
        return f"{self.trouble.value}: {self.detail}" if self.detail else self.trouble.value


@dataclass
class Run:
    """What a run reported."""

    path: Path
    curve: Curve = field(default_factory=Curve)
    validation: list[tuple[int, float]] = field(default_factory=list)
    """Iteration and loss."""
    recipe: recipes.Recipe = field(default_factory=dict)
    selectors: dict[str, str] = field(default_factory=dict)
    """Empty where nothing says which formats ran."""
    called: str = ""
    """The mode under which another run with selectors of the same meaning goes; empty where it is this one's own."""
    calls: Calls = field(default_factory=dict)
    """From the proof."""
    statistics: list[Row] = field(default_factory=list)
    """What its formats did to the products, where that was recorded."""
    tree: str = ""
    """Commit or digest of the Megatron tree."""
    packages: dict[str, str] = field(default_factory=dict)
    memory: float | None = None
    """Peak, bytes: allocated on a GPU, resident on a CPU."""
    marks: list[Mark] = field(default_factory=list)

    @property
    def name(self) -> str:
        return printable(self.path.name)

    @property
    def mode(self) -> str:
        """The mode whose selectors these are, else the selectors that are not none, else `unknown`."""
        return self.called or (mode_of(self.selectors) if self.selectors else "unknown")

    @property
    def seed(self) -> int | None:
        return recipes.seed(self.recipe)

    @property
    def seed_words(self) -> str:
        return "no known seed" if self.seed is None else f"seed {self.seed}"

    @property
    def losses(self) -> dict[int, float]:
        """By iteration; without those that the loss scaler skipped."""
        return self.curve.losses

    @cached_property
    def final_loss(self) -> float:
        """Mean over the last quarter, nats a token; NaN if the run diverged there."""
        return tail_mean(self.losses)

    @cached_property
    def milliseconds(self) -> float:
        return self.curve.milliseconds

    @property
    def tokens_per_second(self) -> float:
        length = real(self.recipe.get("seq-length", "")) or math.nan
        return self.curve.batch * length / self.milliseconds * 1000 if self.milliseconds else math.nan

    @property
    def is_clean(self) -> bool:
        return not self.marks

    def mark(self, trouble: Trouble, detail: str = "") -> None:
        self.marks.append(Mark(trouble, shortened(detail)))


def mark_course(run: Run, interval: int | None = None) -> None:
    """What the curve itself tells; `interval` is that of the log as the run was told, None if nobody knows."""
    curve = run.curve
    if curve.repeats:
        run.mark(Trouble.RESUMED, "iterations were repeated")
    if curve.first_diverged is not None:
        run.mark(Trouble.DIVERGED, f"no finite loss at iteration {curve.first_diverged}")
    skipped, of = curve.skipped(_SKIPPED_SHARE)
    if len(curve) and not run.losses:
        run.mark(Trouble.INCOMPLETE, "the loss scaler skipped every logged iteration")
    elif skipped > of - skipped:
        run.mark(Trouble.INCOMPLETE, f"the loss scaler skipped {skipped} of the last {of} logged iterations")
    if curve.last is None:
        run.mark(Trouble.INCOMPLETE, "no iteration was logged")
    elif curve.last + (step := interval or curve.interval) - curve.last % step <= curve.total:
        run.mark(Trouble.INCOMPLETE, f"ended at iteration {curve.last} of {curve.total}")
