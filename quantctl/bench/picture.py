"""The rows as a picture: the first ratio of each as a bar, with a mark where its limit is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from quantctl.bench.result import Row
from quantctl.bench.table import bound
from quantctl.errors import QuantctlError
from quantctl.outside.packages import require

Key = tuple[str, str]
"""Benchmark, and what the first ratio of its rows is."""
COLOURS = {True: "#2e7d32", False: "#c62828", None: "#5b7fa6"}
PEER = "#b0b0b0"
WIDE = 12.0
"""Largest bar over smallest from which on a logarithmic axis is easier to read."""


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG. Green met its limit, red did not, blue has none, grey is a peer.

    Raises QuantctlError without matplotlib, and where nothing has a ratio.
    """
    require("--png", {"report": ("matplotlib",)})
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[Key, list[Row]] = {}
    for row in rows:
        if row.ratios:
            groups.setdefault((row.bench, row.ratios[0].name), []).append(row)
    if not groups:
        raise QuantctlError("there is nothing to draw: no case has a ratio", "see the reasons in the table")
    columns = _columns(groups)
    height = max(sum(_slots(groups[key]) + GAP for key in column) for column in columns)
    figure = pyplot.figure(figsize=(9 * len(columns), INCHES * height + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    for part, column in zip(figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True):
        shares = [_slots(groups[key]) + GAP for key in column]
        axes = part.subplots(len(column), 1, height_ratios=shares, squeeze=False)[:, 0]
        for key, ax in zip(column, axes, strict=True):
            _bars(ax, *key, groups[key])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


INCHES = 0.2
"""Height of a bar with its gap."""
GAP = 5
"""Title and axis of a group, in bars."""


def _slots(rows: Sequence[Row]) -> int:
    """Bars, and a line for each case."""
    return len(rows) + len({row.case for row in rows})


def _columns(groups: dict[Key, list[Row]]) -> list[list[Key]]:
    """The groups in order, in two columns of about one height where there are several."""
    if len(groups) == 1:
        return [list(groups)]
    total, seen = sum(map(_slots, groups.values())), 0
    columns: tuple[list[Key], list[Key]] = ([], [])
    for key, rows in groups.items():
        columns[bool(columns[0]) and seen + _slots(rows) / 2 > total / 2].append(key)
        seen += _slots(rows)
    return [column for column in columns if column]


def _bars(ax: Any, bench: str, ratio: str, rows: Sequence[Row]) -> None:
    """One axes: under each case its subjects."""
    labels: list[str] = []
    bars: dict[int, Row] = {}
    for case, members in groupby(rows, lambda row: row.case):
        ax.text(0.01, len(labels), case, transform=ax.get_yaxis_transform(), fontsize=7, fontweight="bold", va="center")
        labels.append("")
        for row in members:
            bars[len(labels)] = row
            labels.append(row.subject)
    values = [row.ratios[0].value for row in bars.values()]
    colours = [PEER if row.peer else COLOURS[row.ratios[0].met] for row in bars.values()]
    drawn = ax.barh(list(bars), values, color=colours, height=0.75)
    texts = [f" {row.ratios[0].value:.3g}   {row.time.median:.3g} ms" for row in bars.values() if row.time]
    ax.bar_label(drawn, texts, fontsize=7, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5})
    for place, row in bars.items():
        limit = row.ratios[0].limit
        if limit is not None:
            ax.plot([limit, limit], [place - 0.5, place + 0.5], color="black", linewidth=1.6)
    bounds = sorted({bound(row.ratios[0]) for row in rows} - {""})
    ax.set_title(
        f"{bench}: {ratio}" + (f", limit {', '.join(bounds)} (black)" if bounds else ""), fontsize=9, loc="left"
    )
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    marked = [*values, *(limit for row in bars.values() if (limit := row.ratios[0].limit) is not None)]
    if max(values) > WIDE * min(values):
        ax.set_xscale("log")
        ax.set_xlim(min(marked) * 0.7, max(marked) * 3)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    else:
        ax.set_xlim(0, max(marked) * 1.3)
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
