"""What the formats cost: PNG for documents, SVG for the page. Colour is the format, line style the sites."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from quantctl.modes import NAMED
from quantctl.report.compare import Comparison, Row, Spread, gaps
from quantctl.report.pictures import FORMATS, LIGHT, WIDTH, as_png, as_svg, bare, drawing
from quantctl.spec import NONE

Series = dict[int, float]

_STYLES = {"FA": (0, (1, 1.2)), "linear": (0, (5, 2)), "FA_linear": "-"}
_OTHERS = ("#bf8700", "#0a7ea4", "#d4619a", "#6e7781", "#953800", "#8c6bb1")
_MOST_POINTS = 400
"""Points a curve is drawn with; longer ones are averaged in steps."""
_MOST_BANDS = 4
"""Curves that are drawn with their range over seeds; of more, the ranges would hide the curves."""


_WIDE, _TALL = 64, 36
"""Characters of a line below and beside a picture."""
_SHORT = 18
"""Characters of a name of which two stand in one line of a legend."""
_LABEL = 40
"""Characters of a label in front of a figure."""
_LINE, _MARK = 0.14, 0.21
"""Inches: a line of a label, and what stands below it."""


@dataclass(frozen=True)
class Interval:
    """The gap of one mode."""

    mode: str
    spread: Spread
    seeds: Sequence[float]
    """Seed by seed."""


def _style(mode: str, others: list[str]) -> tuple[str, Any]:
    sites, _, name = mode.rpartition("_")
    if mode == "bf16":
        return LIGHT["ink"], "-"
    if name in FORMATS:
        return FORMATS[name], _STYLES.get(sites, (0, (3, 1, 1, 1)))
    if mode not in others:
        others.append(mode)
    return _OTHERS[others.index(mode) % len(_OTHERS)], "-"


def _colour(mode: str) -> str:
    """Of the first format that its selectors name."""
    said = " ".join(value for value in NAMED.get(mode, {}).values() if value != NONE) or mode
    found = [(said.index(name), colour) for name, colour in FORMATS.items() if name in said]
    return min(found)[1] if found else LIGHT["ink"]


def _in_lines(label: str) -> list[str]:
    """A label that leaves room for a figure beside its first line: broken behind commas, semicolons and colons."""
    lines = [""]
    for piece in re.findall(r".+?(?:[,;:] ?|$)", label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > _LABEL:
            lines.append("")
        lines[-1] += piece
    return lines


def _draw_curve(axes: Any, row: Row, series: Sequence[Series], others: list[str], has_band: bool) -> None:
    """The mean over the series and their range, at the iterations that all have."""
    first, *more = series
    whole = sorted(iteration for iteration in first if all(iteration in curve for curve in more))
    step = -(-len(whole) // _MOST_POINTS) or 1
    blocks = [whole[start : start + step] for start in range(0, len(whole), step)]
    iterations = [block[-1] for block in blocks]
    mean, low, high = (
        [fmean(pick([curve[iteration] for curve in series]) for iteration in block) for block in blocks]
        for pick in (fmean, min, max)
    )
    colour, line = _style(row.mode, others)
    axes.plot(iterations, mean, color=colour, linestyle=line, linewidth=1.4, label=row.label)
    if has_band and more:
        axes.fill_between(iterations, low, high, color=colour, alpha=0.15, linewidth=0)


def _loss(axes: Any, comparison: Comparison) -> None:
    others: list[str] = []
    for row in comparison.rows:
        _draw_curve(axes, row, [run.losses for run in row.runs], others, len(comparison.rows) <= _MOST_BANDS)
    for run in comparison.left_out:
        if run.losses:
            points = list(run.losses.items())[:: -(-len(run.losses) // _MOST_POINTS)]
            axes.plot(*zip(*points, strict=True), color=LIGHT["line"], linewidth=1)
    axes.set_ylabel("lm loss (nats/token)")


def _course(axes: Any, comparison: Comparison) -> None:
    others: list[str] = []
    references = {run.seed: run for row in comparison.rows if row.mode == comparison.reference for run in row.runs}
    for row in comparison.rows:
        series = [gaps(run, references[run.seed]) for run in row.runs if run.seed in references]
        if row.mode != comparison.reference and series:
            _draw_curve(axes, row, series, others, len(comparison.rows) <= _MOST_BANDS + 1)
    axes.axhline(0, color=LIGHT["ink"], linewidth=1)
    axes.set_ylabel(textwrap.fill(f"loss minus {comparison.reference}'s, same seed", _TALL))


_CURVES = {"loss": _loss, "course": _course}
PICTURES = {"gap": "Gap to the reference", "course": "The gap over the run", "loss": "Training loss"}
"""Name -> title."""


def _curves(name: str, comparison: Comparison) -> Any:
    with drawing() as pyplot:
        columns = 1 if any(len(row.label) > _SHORT for row in comparison.rows) else 2
        height = 2.6 + 0.16 * -(-len(comparison.rows) // columns)
        figure, axes = pyplot.subplots(figsize=(WIDTH, height), layout="constrained")
        _CURVES[name](axes, comparison)
        axes.set_xlabel("iteration")
        axes.grid(color=LIGHT["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        bare(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(frameon=False, labelcolor=LIGHT["ink"], fontsize=8, loc="outside lower center", ncols=columns)
    return figure


def intervals(comparison: Comparison) -> list[Interval]:
    """Of every mode but the reference."""
    return [Interval(row.label, row.gap, row.seed_gaps) for row in comparison.rows if row.mode != comparison.reference]


def forest(found: Sequence[Interval], reference: str) -> Any:
    """A line a mode: its mean gap, a standard deviation to either side, and each seed's own gap as a stroke."""
    found = [one for one in found if math.isfinite(one.spread.mean)]
    labels = [_in_lines(one.mode) for one in found]
    heights = [_LINE * len(lines) + _MARK for lines in labels]
    with drawing() as pyplot:
        figure, axes = pyplot.subplots(figsize=(WIDTH, sum(heights or [_MARK]) + 0.7), layout="constrained")
        top = 0.0
        for one, lines, height in zip(found, labels, heights, strict=True):
            mean, deviation, colour = one.spread.mean, one.spread.sd, _colour(one.mode)
            known = math.isfinite(deviation)
            value = f"{mean:+.4f}" + (f" ± {deviation:.4f}" if known else "")
            for side, text in (("left", "\n".join(lines)), ("right", value)):
                axes.text(
                    side == "right",
                    top,
                    text,
                    transform=axes.get_yaxis_transform(),
                    ha=side,
                    va="top",
                    color=LIGHT["ink"],
                    fontsize=8,
                )
            if top:
                axes.axhline(top - 0.02, color=LIGHT["line"], linewidth=0.6)
            top += height
            place = top - _MARK / 2
            axes.plot([0, 0], [place - 0.09, place + 0.05], color=LIGHT["ink"], linewidth=1)
            if known:
                axes.plot([mean - deviation, mean + deviation], [place] * 2, color=colour, linewidth=2.2)
                axes.plot(one.seeds, [place] * len(one.seeds), "|", color=colour, markersize=7, markeredgewidth=0.9)
            axes.plot([mean], [place], "o", color=colour, markersize=4.5)
        axes.set_ylim(top, -0.05)
        axes.set_yticks([])
        axes.margins(x=0.04)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(textwrap.fill(f"loss minus {reference}'s at the same seed; mean of the last quarter", _WIDE))
        bare(axes)
        axes.spines["left"].set_visible(False)
    return figure


def _figure(name: str, comparison: Comparison) -> Any:
    if name in _CURVES:
        return _curves(name, comparison)
    return forest(intervals(comparison), comparison.reference)


def png(name: str, comparison: Comparison, path: Path) -> None:
    """Write a picture for documents: light, on white."""
    as_png(_figure(name, comparison), path)


def svg(name: str, comparison: Comparison) -> str:
    """The picture as an <svg> element."""
    return as_svg(_figure(name, comparison), name)
