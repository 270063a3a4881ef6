"""Rows, ratios and the document of `--json`."""

from __future__ import annotations

import pytest

from quantctl.bench.result import SCHEMA, Failure, Measured, Ratio, Row, Spread, document


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
