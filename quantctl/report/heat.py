"""Heat maps of a run's statistics: what its formats did to each product, layers x steps."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from quantctl.outside.records import COUNT, NUMBER, WORD, BadRecord, Fields, is_json, open_regular, parse
from quantctl.report.pictures import LIGHT, Theme, as_png, as_svg, drawing


@dataclass(frozen=True)
class Quantity:
    """One of the recorded figures, and how it is drawn."""

    name: str
    title: str
    colours: str
    """matplotlib's name of a colour map."""
    factor: float = 1.0


QUANTITIES = (
    Quantity("sqnr", "SQNR (dB)", "viridis"),
    Quantity("underflow", "underflow to zero (%)", "magma_r", 100.0),
    Quantity("saturated", "saturated (%)", "magma_r", 100.0),
)

_TEXTS = ("site", "module", "product", "operand", "spec")
_SHAPE = Fields(
    {"iteration": COUNT, **dict.fromkeys(_TEXTS, WORD), "underflow": NUMBER, "saturated": NUMBER},
    {"layer": COUNT, "sqnr": NUMBER},
)
_LARGEST = 2 * 2**30
_LONGEST = 2**16
_MOST = 1_000_000
"""Bytes of a file, bytes of a line, lines of a run."""
_MOST_PANELS = 64
_MOST_PLACES = 2000
"""A page is to hold them; a training of 1,000 layers has fewer."""
_MOST_STEPS = 400
"""Columns that are drawn; of more, some are left out."""


class Row(NamedTuple):
    """What a format did to one operand of one product at one step."""

    iteration: int
    site: str
    layer: int | None
    """Megatron's number, from 1; None outside of the layers."""
    module: str
    product: str
    operand: str
    spec: str
    underflow: float
    saturated: float
    sqnr: float | None
    """dB; None where nothing or everything was lost."""


def read(run: Path) -> list[Row]:
    """What the run's ranks recorded, in order; of a step that a resumed run repeats, the last record counts.

    Raises BadRecord that names the line of what is no such record, and the file of more than a training has.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    panels, places = set(), set()
    for file in sorted((run / "stats").glob("rank*.jsonl")):
        for row in _rows(file):
            rows[row[:6]] = row
            panels.add((operand(row), row.spec))
            places.add(_place(row))
            for what, seen, most in (
                ("records", rows, _MOST),
                ("operands and specs", panels, _MOST_PANELS),
                ("modules", places, _MOST_PLACES),
            ):
                if len(seen) > most:
                    raise BadRecord(file, f"more than {most:,} {what} of one run")
    return list(rows.values())


def _rows(file: Path) -> Iterator[Row]:
    with open_regular(file, _LARGEST) as lines:
        number = 0
        while line := lines.readline(_LONGEST):
            number += 1
            # the beginning of a record, whose run was killed while it wrote; another one may stand behind it
            if line.startswith(b'{"iteration": ') and not is_json(line):
                continue
            data = parse(line, _SHAPE, file, f"line {number}: ")
            # a run repeats few words: one of each is kept
            data |= {name: sys.intern(data[name]) for name in _TEXTS}
            yield Row(*map(data.get, Row._fields))


def _place(row: Row) -> tuple[int, str]:
    """Sorted by layer; products outside of the layers come last."""
    return (sys.maxsize if row.layer is None else row.layer, row.module)


def _label(place: tuple[int, str], site: str) -> str:
    layer, module = place
    return (module or site) if layer == sys.maxsize else f"{layer} {module}"


def operand(row: Row) -> str:
    """Which operand of which product a row is of."""
    return f"{row.site} {row.product} {row.operand}"


def _panels(rows: Sequence[Row]) -> dict[tuple[str, str], dict[tuple[int, str], dict[int, Row]]]:
    """(operand, spec) -> place -> iteration -> row."""
    panels: dict[tuple[str, str], dict[tuple[int, str], dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        panels[operand(row), row.spec][_place(row)][row.iteration] = row
    return panels


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Of each operand, over layers and steps: its spec, the median SQNR (dB), mean shares of underflow, saturation.

    An SQNR that is not finite (nothing lost, everything lost) is null in the records and takes no part.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[operand(row)].append(row)
    return {
        name: {
            "spec": group[0].spec,
            "sqnr": median(known) if (known := [row.sqnr for row in group if row.sqnr is not None]) else None,
            "underflow": fmean(row.underflow for row in group),
            "saturated": fmean(row.saturated for row in group),
        }
        for name, group in sorted(groups.items())
    }


def figure(rows: Sequence[Row], quantity: Quantity, theme: Theme) -> Any:
    """One heat map an operand and spec; all of them share a colour scale."""
    panels = _panels(rows)
    steps = sorted({row.iteration for row in rows})
    steps = steps[:: -(-len(steps) // _MOST_STEPS)]
    height = max(len(places) for places in panels.values())
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    values = [getattr(row, quantity.name) * quantity.factor for row in rows if getattr(row, quantity.name) is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    image: Any = None
    with drawing() as pyplot:
        size = (2.6 * columns + 1.6, lines * (0.16 * height + 1.0))
        figure, grid = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
        for axes, (key, places) in zip(grid.flat, sorted(panels.items()), strict=False):
            order = sorted(places)
            cells = [[_cell(places[place].get(step), quantity) for step in steps] for place in order]
            image = axes.imshow(
                cells,
                aspect="auto",
                cmap=quantity.colours,
                vmin=low,
                vmax=high if high > low else low + 1,
                interpolation="nearest",
            )
            axes.set_title("\n".join(key), color=theme.ink, fontsize=8)
            axes.set_yticks(range(len(order)), [_label(place, key[0].split()[0]) for place in order], fontsize=5)
            shown = range(0, len(steps), -(-len(steps) // 5))
            axes.set_xticks(shown, [str(steps[at]) for at in shown], fontsize=6)
            axes.tick_params(colors=theme.ink, length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        bar = figure.colorbar(image, ax=grid, shrink=0.8)
        bar.ax.tick_params(colors=theme.ink, labelsize=6)
        bar.set_label(quantity.title, color=theme.ink, fontsize=8)
        bar.outline.set_visible(False)
    return figure


def _cell(row: Row | None, quantity: Quantity) -> float:
    value = None if row is None else getattr(row, quantity.name)
    return math.nan if value is None else value * quantity.factor


def svgs(rows: Sequence[Row], theme: Theme) -> list[tuple[str, str]]:
    """Title and <svg> of each quantity."""
    return [(q.title, as_svg(figure(rows, q, theme), q.name + theme.ink)) for q in QUANTITIES]


def png(rows: Sequence[Row], quantity: Quantity, path: Path) -> None:
    """Write one quantity's heat maps for documents."""
    as_png(figure(rows, quantity, LIGHT), path)
