"""Reading training logs: Megatron's line, skipped steps, resumed and diverged runs, several nodes, what is no log."""

from __future__ import annotations

import math
import re

import pytest

from quantctl.runs.runlog import BATCH, LOSS, PREFIX, lines, log_files, parse_line, read_log

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
    assert point.fields[BATCH] == 8


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
    assert [(point.iteration, point.loss) for point in read_log(tmp_path)] == [(1, 7.0), (2, 6.5), (3, 5.5), (4, 5.0)]


def test_no_log_has_no_points(tmp_path):
    assert read_log(tmp_path / "absent") == []


def test_what_is_no_number_is_no_field():
    assert parse_line(" iteration 1/ 2 | lm loss: 1-2 | global batch size: 8 |").fields == {BATCH: 8}


STEPS = {  # lm loss as it is written, skipped, nan iterations -> loss, is it skipped, has it diverged
    "taken": ("10.81246", 0, 0, 10.81246, False, False),
    "skipped before the first one was taken": (None, 1, 0, math.nan, True, False),
    "skipped, from 0.17.1 on": ("0.000000E+00", 2, 0, math.nan, True, False),
    "some of the interval skipped": ("1.081246E+01", 3, 0, 10.81246, False, False),
    "skipped for a loss that is not finite": (None, 1, 1, math.nan, False, True),
    "the same, from 0.17.1 on": ("0.000000E+00", 1, 1, math.nan, False, True),
    "one such among others": ("1.081246E+01", 3, 1, 10.81246, False, True),
    "not finite, and nothing was skipped": (None, 0, 0, math.nan, False, True),
}


@pytest.mark.parametrize("case", STEPS)
def test_what_the_loss_scaler_skips_is_no_divergence(case):
    loss, skipped, nan, *expected = STEPS[case]
    field = "" if loss is None else f" lm loss: {loss} |"
    point = parse_line(
        " [2026-11-21 00:28:37.086150] iteration        1/      40 | consumed samples:            8 | elapsed time per "
        f"iteration (ms): 702.3 | learning rate: 0.000000E+00 | global batch size:     8 |{field} loss scale: "
        f"4294967296.0 | grad norm: 0.000 | number of skipped iterations: {skipped:3d} | "
        f"number of nan iterations: {nan:3d} |"
    )
    assert [point.loss, point.is_skipped, point.is_diverged] == pytest.approx(expected, nan_ok=True)


def test_the_logs_of_all_nodes_in_their_order(tmp_path):
    assert log_files(tmp_path) == []
    for name in (
        "log-node10.txt",
        "log-node2.txt",
        "log.txt",
        "log-node1.txt",
        "log-nodes.txt",
        "log-node1-old.txt",
        "log-node1.txt.gz",
    ):
        (tmp_path / name).write_text(name)
    assert [path.name for path in log_files(tmp_path)] == [
        "log.txt",
        "log-node1.txt",
        "log-node2.txt",
        "log-node10.txt",
    ]


PREFIXES = [
    "",
    "0: ",
    "node-03.cluster: ",
    "[default0]:",
    "[rank0]: ",
    "[1,0]<stdout>:",
    "2026-11-21T10:00:00.123+01:00 ",
    "2026-11-21 10:00:00,123 ",
    "[2026-11-21 10:00:00] ",
    " 7: [default3]:",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_launchers_put_before_a_line(prefix):
    assert re.fullmatch(PREFIX + "  lr", prefix + "  lr")


@pytest.mark.parametrize("text", ["some words  lr", "iteration 3  lr", "-" * 5000 + "  lr", "   lr"])
def test_other_words_are_no_prefix(text):
    assert re.match(f"{PREFIX}  lr", text) is None


LENGTHS = [0, 1, 2**14 - 1, 2**14, 2**14 + 1, 2**18 - 3, 0, 2**18, 2**18 + 1, 3 * 2**18 + 5, 7]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_lines_of_any_length_are_read_whole_or_in_pieces(tmp_path, end):
    rows = ["".join(chr(97 + (at + size) % 26) for at in range(size)) for size in LENGTHS]
    log = tmp_path / "log.txt"
    log.write_bytes((end or "\n").join(rows).encode() + end.encode())
    size = 2**14
    assert list(lines(log)) == [row[at : at + size] for row in rows for at in range(0, len(row) or 1, size)]


VALUES = {"1": 1, "-.5E+2": -50, "nan": math.nan, "inf": math.inf, "1.2.3": None, "1e": None, "1_0": None, "٤": None}


@pytest.mark.parametrize("text", VALUES)
def test_numbers_of_a_line(text):
    fields = parse_line(f" iteration 1/ 2 | lm loss: {text} | global batch size: 8 |").fields
    assert fields == pytest.approx(
        {LOSS: VALUES[text], BATCH: 8} if VALUES[text] is not None else {BATCH: 8}, nan_ok=True
    )
