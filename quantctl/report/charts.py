"""Loss and gap curves, as PNG for documents and SVG for the page. Colour is the format, line style the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from quantctl.report.compare import Comparison, Row, gaps
from quantctl.report.pictures import LIGHT, Theme, as_png, as_svg, drawing
from quantctl.report.run import Run

Series = dict[int, float]


_STYLES = {"FA": (0, (1, 1.2)), "linear": (0, (5, 2)), "FA_linear": "-"}
_OTHERS = ("#bf8700", "#0a7ea4", "#d4619a", "#6e7781", "#953800", "#4d2d82")
_MOST_POINTS = 400
"""Points a curve is drawn with; longer ones are averaged in steps."""


def _style(mode: str, theme: Theme, others: list[str]) -> tuple[str, Any]:
    sites, _, name = mode.rpartition("_")
    if mode == "bf16":
        return theme.ink, "-"
    if name in theme.formats:
        return theme.formats[name], _STYLES.get(sites, (0, (3, 1, 1, 1)))
    if mode not in others:
        others.append(mode)
    return _OTHERS[others.index(mode) % len(_OTHERS)], "-"


def _band(series: Sequence[Series]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Iterations, and mean, lowest and highest over the series at each; in steps where there are too many."""
    first, *others = series
    whole = sorted(iteration for iteration in first if all(iteration in curve for curve in others))
    step = -(-len(whole) // _MOST_POINTS) or 1
    blocks = [whole[start : start + step] for start in range(0, len(whole), step)]

    def over(pick: Callable[[list[float]], float]) -> list[float]:
        return [fmean(pick([curve[iteration] for curve in series]) for iteration in block) for block in blocks]

    return [block[-1] for block in blocks], over(fmean), over(min), over(max)


def _band_alpha(comparison: Comparison) -> float:
    """Bands of many modes lie over each other: the more, the fainter."""
    return min(0.15, 0.6 / len(comparison.rows))


def _draw(axes: Any, mode: str, series: Sequence[Series], theme: Theme, others: list[str], band: float) -> None:
    iterations, mean, low, high = _band(series)
    colour, line = _style(mode, theme, others)
    axes.plot(iterations, mean, color=colour, linestyle=line, linewidth=1.6, label=mode)
    if len(series) > 1:
        axes.fill_between(iterations, low, high, color=colour, alpha=band, linewidth=0)


def _loss(axes: Any, comparison: Comparison, theme: Theme) -> None:
    others: list[str] = []
    for row in comparison.rows:
        _draw(axes, row.mode, [run.losses for run in row.runs], theme, others, _band_alpha(comparison))
    for run in comparison.left_out:
        if run.losses:
            iterations, mean, _, _ = _band([run.losses])
            axes.plot(iterations, mean, color=theme.grid, linewidth=1)
    axes.set_ylabel("lm loss (nats/token)")


def _gap(axes: Any, comparison: Comparison, theme: Theme) -> None:
    others: list[str] = []
    references = {run.seed: run for row in comparison.rows if row.mode == comparison.reference for run in row.runs}
    for row in comparison.rows:
        series = _gap_series(row, references)
        if row.mode != comparison.reference and series:
            _draw(axes, row.mode, series, theme, others, _band_alpha(comparison))
    axes.axhline(0, color=theme.ink, linewidth=1)
    axes.set_ylabel(f"loss minus {comparison.reference}'s, same seed")


def _gap_series(row: Row, references: dict[int | None, Run]) -> list[Series]:
    return [gaps(run, references[run.seed]) for run in row.runs if run.seed in references]


PICTURES = {"loss": _loss, "gap": _gap}
"""Name -> what draws it."""


def _figure(name: str, comparison: Comparison, theme: Theme) -> Any:
    with drawing() as pyplot:
        figure, axes = pyplot.subplots(figsize=(8.4, 4.2))
        PICTURES[name](axes, comparison, theme)
        axes.set_xlabel("iteration")
        axes.grid(color=theme.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(theme.grid)
        axes.tick_params(colors=theme.ink, length=0)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(theme.ink)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.tight_layout()
    return figure


def png(name: str, comparison: Comparison, path: Path) -> None:
    """Write a picture for documents: light, on white."""
    as_png(_figure(name, comparison, LIGHT), path)


def svg(name: str, comparison: Comparison, theme: Theme) -> str:
    """The picture as an <svg> element."""
    return as_svg(_figure(name, comparison, theme), name + theme.ink)
