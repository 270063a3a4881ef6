"""Which runs may be compared, and what each mode costs against the reference.

A run is held against the reference run of the same seed, iteration by iteration; a mode's figures are the mean over its
seeds and the sample standard deviation. A run with a trouble is listed and left out of every mean.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from quantctl.errors import QuantctlError
from quantctl.modes import NAMED
from quantctl.report import heat
from quantctl.report.curve import tail_mean
from quantctl.report.labels import labels, meaning
from quantctl.report.run import Run, Trouble
from quantctl.runs import recipe as recipes
from quantctl.runs.proof import Calls
from quantctl.spec import SITES

REFERENCE = "bf16"

_EXACT = ("torch", "megatron-core", "quantctl", "triton", "transformer-engine")
"""Packages whose version decides a run's numbers."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    sd: float
    """Sample standard deviation; NaN for one seed."""

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return Spread(math.nan, math.nan)
        return Spread(fmean(known), stdev(known) if len(known) > 1 else math.nan)


@dataclass(frozen=True)
class Row:
    """One mode."""

    mode: str
    label: str
    """What it is called in tables and pictures: a long one is cut and numbered, for `Comparison.legend`."""
    runs: list[Run]
    """The clean ones, by seed."""
    loss: Spread
    """Training loss, mean of the last quarter, nats a token."""
    validation: Spread
    """Last validation loss, nats a token."""
    gap: Spread
    """Loss minus the reference's at the same seed and iterations, mean of the last quarter."""
    seed_gaps: list[float]
    """That gap, seed by seed."""
    largest_gap: float
    """The gap farthest from zero, with its sign, of any iteration and seed behind the first quarter, where runs of one
    seed still coincide."""
    milliseconds: float
    """Time of an iteration: median over the seeds' medians."""
    slowdown: float
    """That against the reference's."""
    tokens_per_second: float
    memory: float
    """Peak, bytes: the largest of the seeds."""
    calls: Calls
    """Of one run."""

    @property
    def statistics(self) -> list[heat.Row]:
        """Of the first run that recorded any."""
        return next((run.statistics for run in self.runs if run.statistics), [])

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """All runs, judged."""

    reference: str
    rows: list[Row]
    """The reference first, then the modes as they are listed, then others in the order they were first met."""
    runs: list[Run]

    labels: Mapping[str, str]
    """Of the modes of all runs."""

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The labels that are cut, and the modes that they stand for."""
        return [(label, mode) for mode, label in self.labels.items() if label != mode]

    @property
    def left_out(self) -> list[Run]:
        return [run for run in self.runs if not run.is_clean]

    @property
    def caution(self) -> str:
        """What the table's figures do not say: of one seed nothing tells a difference from chance. Empty otherwise."""
        single = [row for row in self.rows if len(row.runs) == 1]
        alone = [row.label for row in single]
        if len(self.rows) < 2 or not alone or [row.mode for row in single] == [self.reference]:
            return ""
        whose = "One seed" if len(alone) == len(self.rows) else f"One seed of {', '.join(alone)}"
        return (
            f"{whose}: nothing is ranked here. Another seed may turn the order; quantctl sweep --seeds 1,2,3 gives "
            "the gaps a deviation."
        )


def _base(runs: Sequence[Run], reference: str) -> Run | None:
    """The run that stands for the experiment: the most frequent kind among the clean runs of the reference."""
    clean = [run for run in runs if run.is_clean and run.recipe]
    candidates = [run for run in clean if run.mode == reference] or clean
    if not candidates:
        return None
    kinds = Counter(map(_experiment, candidates))
    commonest, _ = max(kinds.items(), key=lambda item: item[1])
    return next(run for run in candidates if _experiment(run) == commonest)


def _experiment(run: Run) -> tuple[object, ...]:
    flags = tuple(sorted((flag, value) for flag, value in run.recipe.items() if flag != "seed"))
    others = tuple(sorted((key, value) for key, value in run.selectors.items() if key not in SITES))
    return flags, run.tree, tuple(run.packages.get(name) for name in _EXACT), others


def _mismatches(run: Run, base: Run) -> list[str]:
    found = recipes.differences(run.recipe, base.recipe) if run.recipe else []
    if run.tree and run.tree != base.tree:
        found.append(f"tree {run.tree} against {base.tree}")
    for name in _EXACT:
        mine, theirs = run.packages.get(name), base.packages.get(name)
        if run.packages and mine != theirs:
            found.append(f"{name} {mine} against {theirs}")
    for key in sorted((run.selectors.keys() | base.selectors.keys()) - set(SITES)):
        if run.selectors and run.selectors.get(key) != base.selectors.get(key):
            found.append(f"{key} {run.selectors.get(key)} against {base.selectors.get(key)}")
    return found


def gaps(run: Run, reference: Run) -> dict[int, float]:
    """Iteration -> loss minus the reference's, at the iterations that both have."""
    theirs = reference.losses
    return {iteration: loss - theirs[iteration] for iteration, loss in run.losses.items() if iteration in theirs}


def _largest(series: Sequence[dict[int, float]]) -> float:
    ends = [max(gap, default=0) for gap in series]
    late = (v for gap, end in zip(series, ends, strict=True) for iteration, v in gap.items() if iteration > end / 4)
    return max((value for value in late if not math.isnan(value)), key=abs, default=math.nan)


def _row(mode: str, label: str, runs: list[Run], references: dict[int | None, Run]) -> Row:
    series = [gaps(run, references[run.seed]) for run in runs if run.seed in references]
    tails = [tail_mean(gap) for gap in series]
    milliseconds = _median([run.milliseconds for run in runs])
    theirs = _median([run.milliseconds for run in references.values()])
    return Row(
        mode,
        label,
        runs,
        Spread.of([run.final_loss for run in runs]),
        Spread.of([run.validation[-1][1] for run in runs if run.validation]),
        Spread.of(tails),
        tails,
        _largest(series),
        milliseconds,
        milliseconds / theirs if theirs else math.nan,
        _median([run.tokens_per_second for run in runs]),
        max((run.memory for run in runs if run.memory is not None), default=math.nan),
        runs[0].calls,
    )


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


def _join(runs: Sequence[Run]) -> None:
    """Let runs whose selectors mean the same go under the mode of the first of them."""
    first: dict[Hashable, str] = {}
    for run in runs:
        if run.selectors:
            mode = first.setdefault(meaning(run.selectors), run.mode)
            run.called = mode if mode != run.mode else ""


def compare(runs: Sequence[Run], reference: str = REFERENCE) -> Comparison:
    """Judge the runs against each other: marks on them are added, and one row a mode is made of the clean ones.

    Raises QuantctlError if there is no run at all.
    """
    if not runs:
        raise QuantctlError("no run was given", "quantctl report RUN_DIRECTORY...")
    _join(runs)
    base = _base(runs, reference)
    for run in runs:
        if base is not None and (found := _mismatches(run, base)):
            shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
            run.mark(Trouble.MISMATCHED, shown)
    seen: set[tuple[str, int | None]] = set()
    references: dict[int | None, Run] = {}
    for run in runs:
        if not run.is_clean:
            continue
        if (run.mode, run.seed) in seen:
            run.mark(Trouble.MISMATCHED, f"a second run of {run.mode} with {run.seed_words}")
            continue
        seen.add((run.mode, run.seed))
        if run.mode == reference:
            references[run.seed] = run
    for run in runs:
        if run.is_clean and references and run.seed not in references:
            run.mark(Trouble.ALONE, f"no {reference} run with {run.seed_words}")
    by_mode: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.is_clean:
            by_mode[run.mode].append(run)
    place = {mode: number for number, mode in enumerate(NAMED)}
    order = sorted(by_mode, key=lambda mode: (mode != reference, place.get(mode, len(place))))
    called = labels([*order, *(run.mode for run in runs)])
    rows = [
        _row(mode, called[mode], sorted(by_mode[mode], key=lambda run: run.seed or 0), references) for mode in order
    ]
    return Comparison(reference, rows, list(runs), called)
