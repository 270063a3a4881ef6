"""Rows, ratios and the document of `--json`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from quantctl.bench.result import SCHEMA, Failure, Measured, Ratio, Row, Spread, document
from quantctl.bench.table import tables


@pytest.mark.parametrize(
    ("samples", "spread"),
    [
        ([3.0], Spread(3.0, 3.0, 3.0, 1)),
        ([1.0, 9.0], Spread(5.0, 3.0, 7.0, 2)),
        ([5.0, 1.0, 2.0, 100.0, 3.0], Spread(3.0, 2.0, 5.0, 5)),
    ],
    ids=["one", "two", "an outlier"],
)
def test_median_and_quartiles(samples, spread) -> None:
    assert Spread.of(samples) == spread


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "met"),
    [
        (0.95, 0.95, True, True),
        (0.949, 0.95, True, False),
        (1.03, 1.03, False, True),
        (1.031, 1.03, False, False),
        (9.9, None, False, None),
    ],
)
def test_a_ratio_is_held_against_its_limit(value, limit, at_least, met) -> None:
    assert Ratio("x", value, limit, at_least).met is met


MEASURED = Measured(Spread(2.0, 1.0, 3.0, 9), 1024)


@pytest.mark.parametrize(("unit", "rate"), [("GB/s", 500.0), ("TFLOP/s", 0.5)])
def test_a_rate_is_the_amount_over_the_median(unit, rate) -> None:
    row = Row.of(MEASURED, amount=1e9, unit=unit, bench="b", case="c", subject="s")
    assert (row.rate, row.unit, row.time, row.peak_bytes) == (rate, unit, MEASURED.time, 1024)


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        ({}, False),
        ({"facts": {"equals reference": True}}, False),
        ({"facts": {"equals reference": None}}, False),
        ({"facts": {"equals reference": False}}, True),
        ({"failure": Failure("ValueError: x")}, True),
        ({"failure": Failure("out of memory: x", excused=True)}, False),
        ({"failure": Failure("ValueError: x"), "peer": True}, False),
    ],
    ids=["fine", "equal", "not compared", "differs", "failed", "excused", "a peer failed"],
)
def test_what_counts_as_a_finding(row, finding) -> None:
    assert Row("b", "c", "s", **row).is_finding is finding


def test_the_document() -> None:
    ratios = (Ratio("time of bf16", 1.5, 1.0),)
    good = Row.of(MEASURED, amount=1e9, unit="GB/s", bench="b", case="c", subject="s", ratios=ratios, facts={"n": 1})
    bad = Row.of(Failure("no"), amount=1e9, unit="GB/s", bench="b", case="c", subject="t", peer=True)
    assert document([good, bad], {"date": "today"}, quick=True) == {
        "schema": SCHEMA,
        "date": "today",
        "quick": True,
        "rows": [
            {
                "bench": "b",
                "case": "c",
                "subject": "s",
                "peer": False,
                "milliseconds": {"median": 2.0, "low": 1.0, "high": 3.0, "repeats": 9},
                "rate": {"value": 500.0, "unit": "GB/s"},
                "peak_bytes": 1024,
                "ratios": [{"name": "time of bf16", "value": 1.5, "limit": 1.0, "at_least": False, "met": False}],
                "facts": {"n": 1},
                "failure": None,
            },
            {
                "bench": "b",
                "case": "c",
                "subject": "t",
                "peer": True,
                "milliseconds": None,
                "rate": None,
                "peak_bytes": None,
                "ratios": [],
                "facts": {},
                "failure": {"reason": "no", "excused": False},
            },
        ],
    }


@pytest.mark.parametrize("width", [60, 80, 180])
def test_no_width_cuts_the_table(width) -> None:
    """Every figure stands there, whole, however many tables that takes."""
    time = Spread(123.456, 100.25, 1341.93, 9)
    ratios = (Ratio("of copy bandwidth", 0.512), Ratio("times a copy", 1.95, 2.0))
    facts = {"bytes an element": {"read": 2, "written": 2}, "kernels": "cpu"}
    row = Row("qdq", "2048 x 2048 bf16, last axis", "mxfp8", time, 1234.5, "GB/s", 2**23, ratios, facts)
    failed = Row("qdq", "2048 x 2048 bf16, both in one pass, 2 threads", "hifp8", failure=Failure("no memory", True))
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    for table in tables([row, failed], console):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    whole = (
        "123.5",
        "100.2 - 1341.9",
        "1,234",
        "8.0",
        "0.512 of copy bandwidth",
        "1.95 times a copy (<= 2)",
        "no memory",
    )
    assert [words for words in whole if words not in text] == []
