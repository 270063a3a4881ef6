"""What the report's pictures share: colours, and how matplotlib writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORMATS = {
    "mxfp8": "#0969da",
    "mxfp4": "#cf222e",
    "hifp8": "#1a7f37",
    "nvfp4": "#bc4c00",
    "mxfp6": "#8250df",
}
LIGHT = {"ink": "#1f2328", "line": "#d0d7de", **FORMATS}
DARK = {
    "ink": "#e6edf3",
    "line": "#30363d",
    "mxfp8": "#58a6ff",
    "mxfp4": "#ff7b72",
    "hifp8": "#3fb950",
    "nvfp4": "#ffa657",
    "mxfp6": "#bc8cff",
}
"""Colours that are read on a light and on a dark background. Pictures are drawn in the light ones."""
WIDTH = 3.9
"""Inches of a picture on the page: so narrow that its text is still read when a phone's width is all there is."""


@contextmanager
def drawing() -> Iterator[Any]:
    """matplotlib's pyplot without a display. Names are shown as they are: a `$` in one begins no formula."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        yield pyplot


def as_svg(figure: Any, salt: str) -> str:
    """A figure as an <svg> element without a background, closed; its text stays text. `salt` makes its ids its own.

    Its colours of LIGHT become the page's CSS variables of the same names, so that one picture serves light and dark.
    """
    import matplotlib

    text = io.StringIO()
    with (
        drawing() as pyplot,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}),
    ):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    for name, colour in LIGHT.items():
        for what in ("fill", "stroke"):
            svg = svg.replace(f"{what}: {colour}", f"{what}: var(--{name})")
    return svg


def as_png(figure: Any, path: Any) -> None:
    """Write a figure for documents, and close it."""
    with drawing() as pyplot:
        figure.savefig(path, dpi=200)
        pyplot.close(figure)


def bare(axes: Any) -> None:
    """Axes without a frame, in the colours of the page."""
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(LIGHT["line"])
    axes.tick_params(colors=LIGHT["ink"], length=0, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=LIGHT["ink"], fontsize=8)
