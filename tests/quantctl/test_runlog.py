"""Reading training logs: Megatron's line, resumed and diverged runs, files that are no logs."""

from __future__ import annotations

import math

import pytest

from quantctl.runlog import parse_line, read_log

LINE = (
    " [2026-11-21 00:28:37.086150] iteration {iteration:8d}/      40 | consumed samples:            8 | "
    "elapsed time per iteration (ms): 702.3 | learning rate: 1.000000E-03 | global batch size:     8 |{loss} "
    "loss scale: 1.0 | grad norm: 1.760 | number of skipped iterations:   0 | number of nan iterations:   {nan} |"
)


def line(iteration: int, loss: float | None) -> str:
    field = "" if loss is None else f" lm loss: {loss:.6E} |"
    return LINE.format(iteration=iteration, loss=field, nan=int(loss is None))


def test_a_line():
    point = parse_line(line(10, 7.25))
    assert (point.iteration, point.total, point.loss, point.milliseconds) == (10, 40, 7.25, 702.3)
    assert point.fields["grad norm"] == 1.76
    assert point.fields["learning rate"] == 1e-3


def test_a_missing_loss_is_divergence():
    assert math.isnan(parse_line(line(10, None)).loss)


OTHERS = (
    "",
    "loading checkpoint at iteration 5",
    " validation loss at iteration 3 on validation set | lm loss value: 7 |",
)


@pytest.mark.parametrize("text", OTHERS)
def test_other_lines_are_no_points(text):
    assert parse_line(text) is None


def test_of_repeated_iterations_the_last_counts(tmp_path):
    log = tmp_path / "log.txt"
    rows = [line(1, 7.0), line(2, 6.0), line(3, 5.0), "resumed", line(2, 6.5), line(3, 5.5), line(4, 5.0)]
    log.write_text("\n".join(rows))
    assert [(point.iteration, point.loss) for point in read_log(log)] == [(1, 7.0), (2, 6.5), (3, 5.5), (4, 5.0)]


def test_no_log_has_no_points(tmp_path):
    assert read_log(tmp_path / "absent.txt") == []


def test_what_is_no_number_is_no_field():
    assert parse_line(" iteration 1/ 2 | lm loss: 1-2 | grad norm: 3.5 |").fields == {"grad norm": 3.5}
