"""What the report's pictures share: colours, and how matplotlib writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Theme:
    """Colours that are read on a light or a dark background."""

    ink: str
    grid: str
    formats: dict[str, str]


LIGHT = Theme(
    "#1f2328",
    "#d0d7de",
    {"mxfp8": "#0969da", "mxfp4": "#cf222e", "hifp8": "#1a7f37", "nvfp4": "#bc4c00", "mxfp6": "#8250df"},
)
DARK = Theme(
    "#e6edf3",
    "#30363d",
    {"mxfp8": "#58a6ff", "mxfp4": "#ff7b72", "hifp8": "#3fb950", "nvfp4": "#ffa657", "mxfp6": "#bc8cff"},
)


@contextmanager
def drawing() -> Iterator[Any]:
    """matplotlib's pyplot without a display. Names are shown as they are: a `$` in one begins no formula."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}):
        yield pyplot


def as_svg(figure: Any, salt: str) -> str:
    """A figure as an <svg> element without a background, closed; its text stays text. `salt` makes its ids its own."""
    import matplotlib

    text = io.StringIO()
    with (
        drawing() as pyplot,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}),
    ):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def as_png(figure: Any, path: Any) -> None:
    """Write a figure for documents, and close it."""
    with drawing() as pyplot:
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
