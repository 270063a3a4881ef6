"""The picture of gaps: what is written in it is read."""

from __future__ import annotations

import itertools

import pytest

from quantctl.report.charts import Interval, forest
from quantctl.report.compare import Spread
from quantctl.sweep.sizes import SIZES


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_no_label_or_figure_lies_on_another(size):
    figure = forest([Interval(mode, Spread(-0.1, 0.0123), [-0.1]) for mode in size.modes], "bf16")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 2 * len(size.modes)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
