"""The gate of a GPU: what is wrong is found, and what breaks is a row."""

from __future__ import annotations

import json

import pytest
import torch

from quantctl.bench import equality, gate, markdown
from quantctl.bench.machine import Setting
from quantctl.bench.result import EQUAL, Row

CPU = torch.device("cpu")


def judged(case, results):
    return equality._judged(Row("equality", case, "mxfp8"), lambda device: [results.pop(0)], CPU)


@pytest.mark.parametrize(("found", "equal"), [(0.0, True), (-0.0, False)])
def test_bits_are_judged(found, equal) -> None:
    assert judged("qdq: here", [torch.tensor([found, torch.nan]), torch.tensor([0.0, torch.nan])]).facts[EQUAL] is equal


@pytest.mark.parametrize(("found", "fails"), [(1.01, False), (1.2, True), (torch.nan, True)])
def test_attention_is_judged_by_its_distance(found, fails) -> None:
    row = judged("attention: distance", [torch.tensor([found]), torch.ones(1)])
    assert (row.failure is not None) is row.is_finding is fails


def test_every_part_has_cases_of_kernels() -> None:
    cases = [(part, case, subject) for part in equality.PARTS for case, subject, _ in equality._cases(part, quick=True)]
    assert len(set(cases)) == len(cases) > 40


def test_a_stage_that_breaks_is_a_row_and_stops_no_other(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gate, "STAGES", (("equality", ("unknown",)), ("qdq", ())))
    calls = iter([60.0, -1.0])
    rows = gate._rows
    monkeypatch.setattr(gate, "_rows", lambda name, asked, setting, _: rows(name, asked, setting, next(calls)))
    assert gate.run(Setting(CPU, quick=True), tmp_path, minutes=1.0) == 1
    broken, late = json.loads((tmp_path / "gate.json").read_text())["rows"]
    assert "exit status" in broken["failure"]["reason"]
    assert late["failure"] == {"reason": "no time was left", "excused": True}
    assert "exit status" in (tmp_path / "gate.md").read_text()


def test_a_table_says_what_was_missed() -> None:
    ratio = {"name": "of copy bandwidth", "value": 0.5, "limit": 0.95, "at_least": True, "met": False}
    time = {"median": 1.0, "low": 0.9, "high": 1.25, "repeats": 3}
    row = {"bench": "qdq", "case": "c", "subject": "mxfp8", "milliseconds": time, "ratios": [ratio], "facts": {}}
    document = {"rows": [row], "device": {"name": "GPU", "threads": 1}, "versions": {"torch": "2"}, "date": "today"}
    assert markdown.tables(document).splitlines()[-1] == (
        "| qdq | c | mxfp8 | 1 (0.9 - 1.25) | 0.5 of copy bandwidth (>= 0.95, **missed**) |"
    )
