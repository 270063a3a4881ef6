"""Heat maps of a run's statistics: what its formats did to each product, layers x steps."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from quantctl.outside.records import COUNT, NUMBER, WORD, BadRecord, Fields, is_json, open_regular, parse
from quantctl.report.pictures import LIGHT, WIDTH, as_png, as_svg, drawing


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


def _labels(places: Sequence[tuple[int, str]], site: str) -> list[str]:
    """Layer and module, the module by the last part of its name where that tells it from the others."""
    names = {module for _, module in places}
    tails = {name: name.rpartition(".")[2] for name in names}
    shown = tails if len(set(tails.values())) == len(names) else {name: name for name in names}
    return [(shown[module] or site) if layer == sys.maxsize else f"{layer} {shown[module]}" for layer, module in places]


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

    An operand that had several specs (of other layers, at other steps) has an entry for each, called OPERAND in SPEC.
    An SQNR that is not finite (nothing lost, everything lost) is null in the records and takes no part.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[operand(row), row.spec].append(row)
    specs = Counter(name for name, _ in groups)
    return {
        name if specs[name] == 1 else f"{name} in {spec}": {
            "spec": spec,
            "sqnr": median(known) if (known := [row.sqnr for row in group if row.sqnr is not None]) else None,
            "underflow": fmean(row.underflow for row in group),
            "saturated": fmean(row.saturated for row in group),
        }
        for (name, spec), group in sorted(groups.items())
    }


Scale = tuple[float, float]
"""What the lowest and the highest colour stand for."""


def scale(rows: Sequence[Row], quantity: Quantity) -> Scale:
    """From the lowest to the highest of the rows."""
    values = [value for row in rows if not math.isnan(value := _value(row, quantity))]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return low, high if high > low else low + 1


def _value(row: Row | None, quantity: Quantity) -> float:
    value = None if row is None else getattr(row, quantity.name)
    return math.nan if value is None else value * quantity.factor


def _draw(
    axes: Any, places: dict[tuple[int, str], dict[int, Row]], site: str, quantity: Quantity, at: Scale, marks: int = 5
) -> Any:
    """One panel, layers x steps with at most so many marks; the image."""
    order = sorted(places)
    steps = sorted({step for rows in places.values() for step in rows})
    steps = steps[:: -(-len(steps) // _MOST_STEPS)]
    cells = [[_value(places[place].get(step), quantity) for step in steps] for place in order]
    image = axes.imshow(cells, aspect="auto", cmap=quantity.colours, vmin=at[0], vmax=at[1], interpolation="nearest")
    axes.set_yticks(range(len(order)), _labels(order, site), fontsize=7)
    shown = range(0, len(steps), -(-len(steps) // marks))
    axes.set_xticks(shown, [str(steps[at]) for at in shown], fontsize=7)
    axes.tick_params(colors=LIGHT["ink"], length=0)
    axes.spines[:].set_visible(False)
    return image


def _bar(figure: Any, image: Any, quantity: Quantity, **where: Any) -> None:
    bar = figure.colorbar(image, **where)
    bar.ax.tick_params(colors=LIGHT["ink"], labelsize=7)
    bar.set_label(quantity.title, color=LIGHT["ink"], fontsize=8)
    bar.outline.set_visible(False)


_ROW = 0.14
"""Inches of a layer."""


def figure(rows: Sequence[Row], quantity: Quantity) -> Any:
    """Heat maps in one picture, as narrow as the page's and on one scale: a line an operand, a column a spec."""
    panels = _panels(rows)
    operands, specs = (sorted({key[part] for key in panels}) for part in (0, 1))
    height = max(len(places) for places in panels.values())
    at, image = scale(rows, quantity), None
    with drawing() as pyplot:
        size = (WIDTH, len(operands) * (_ROW * height + 0.6) + 0.5)
        figure, grid = pyplot.subplots(
            len(operands), len(specs), figsize=size, squeeze=False, sharey="row", layout="constrained"
        )
        for line, name in enumerate(operands):
            for column, spec in enumerate(specs):
                axes = grid[line][column]
                if (places := panels.get((name, spec))) is None:
                    axes.set_axis_off()
                    continue
                image = _draw(axes, places, name.split()[0], quantity, at, marks=3)
                axes.tick_params(labelleft=not column)
                heading = "" if column else name
                axes.set_title(f"{heading}\n{spec}", color=LIGHT["ink"], fontsize=8, loc="left")
        _bar(figure, image, quantity, ax=grid, orientation="horizontal", shrink=0.8, aspect=40)
    return figure


def bar(quantity: Quantity, at: Scale) -> str:
    """What the colours of the quantity stand for, as <svg>."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    with drawing() as pyplot:
        figure, axes = pyplot.subplots(figsize=(WIDTH, 0.55), layout="constrained")
        image = ScalarMappable(Normalize(*at), quantity.colours)
        _bar(figure, image, quantity, cax=axes, orientation="horizontal")
    return as_svg(figure, quantity.name)


def svgs(rows: Sequence[Row], quantity: Quantity, at: Scale) -> tuple[list[tuple[str, str]], list[str]]:
    """A title and an <svg> of each operand and spec, and the titles of those that are zero everywhere."""
    drawn, zero = [], []
    for key, places in sorted(_panels(rows).items()):
        title = f"{key[0]}, {key[1]}"
        if not any(_value(row, quantity) for found in places.values() for row in found.values()):
            zero.append(title)
            continue
        with drawing() as pyplot:
            size = (WIDTH, _ROW * len(places) + 0.4)
            figure, axes = pyplot.subplots(figsize=size, layout="constrained")
            _draw(axes, places, key[0].split()[0], quantity, at)
        drawn.append((title, as_svg(figure, quantity.name + title)))
    return drawn, zero


def png(rows: Sequence[Row], quantity: Quantity, path: Path) -> None:
    """Write one quantity's heat maps for documents."""
    as_png(figure(rows, quantity), path)
