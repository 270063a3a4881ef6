"""The comparison as one HTML page that needs nothing but itself: for a phone, a desk, a printer, light or dark."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from quantctl.output import printable, shortened
from quantctl.report import charts, heat, table
from quantctl.report.compare import Comparison
from quantctl.report.pictures import DARK, LIGHT
from quantctl.report.run import Run


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What all averaged runs have in common."""
    clean = [run for row in comparison.rows for run in row.runs]
    if not clean:
        return []
    run = clean[0]
    flags = {name: shortened(value) for name, value in run.recipe.items()}
    size = [f"{flags[name]} {word}" for name, word in _SIZE.items() if name in flags]
    facts = [
        ("model", ", ".join(size)),
        ("data", flags.get("data-path", "mock data" if "mock-data" in flags else "")),
        ("iterations", str(run.curve.total or "")),
        ("seeds", ", ".join(sorted({str(run.seed) for run in clean}))),
        ("tree", run.tree),
        ("packages", ", ".join(f"{name} {version}" for name, version in run.packages.items())),
    ]
    return [(name, value) for name, value in facts if value]


_SIZE = {
    "num-layers": "layers",
    "hidden-size": "wide",
    "num-attention-heads": "heads",
    "num-experts": "experts",
    "seq-length": "tokens a sequence",
    "global-batch-size": "sequences a step",
}


def _left_out(run: Run, mode: str) -> dict[str, Any]:
    loss = "-" if math.isnan(run.final_loss) else f"{run.final_loss:.4f}"
    seed = "-" if run.seed is None else str(run.seed)
    return {"name": run.name, "mode": mode, "seed": seed, "loss": loss, "marks": list(map(str, run.marks))}


def _statistics(comparison: Comparison) -> list[dict[str, Any]]:
    """Heat maps of the first run of each mode that recorded any; of each quantity all on one scale."""
    from markupsafe import Markup

    found = {row.label: row.statistics for row in comparison.rows if row.statistics}
    quantities = []
    for quantity in heat.QUANTITIES if found else ():
        at = heat.scale([row for rows in found.values() for row in rows], quantity)
        modes = []
        for mode, rows in found.items():
            drawn, zero = heat.svgs(rows, quantity, at)
            pictures = [{"title": title, "svg": Markup(svg)} for title, svg in drawn]
            modes.append({"mode": mode, "pictures": pictures, "zero": zero})
        is_drawn = any(mode["pictures"] for mode in modes)
        bar = Markup(heat.bar(quantity, at)) if is_drawn else ""
        quantities.append({"title": quantity.title, "bar": bar, "modes": modes})
    return quantities


def html(comparison: Comparison, title: str) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    pictures = [
        {"title": title, "svg": Markup(charts.svg(name, comparison))}
        for name, title in charts.PICTURES.items()
        if comparison.rows
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.j2").render(
        title=printable(title),
        made=f"{datetime.now():%d %B %Y}",
        reference=comparison.reference,
        themes={"light": LIGHT, "dark": DARK},
        caution=comparison.caution,
        legend=comparison.legend,
        headings=list(table.COLUMNS),
        rows=table.cells(comparison),
        products=[(row.label, table.products(row)) for row in comparison.rows if row.runs[0].selectors],
        facts=_facts(comparison),
        left_out=[_left_out(run, comparison.labels[run.mode]) for run in comparison.left_out],
        pictures=pictures,
        statistics=_statistics(comparison),
    )
