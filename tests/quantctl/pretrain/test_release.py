"""Calls into a megatron-core that lacks parameters."""

from __future__ import annotations

import pytest

from quantctl.errors import QuantctlError
from quantctl.pretrain.release import keywords


def model(width, *, rope_scaling=False):
    return width


def fork(**options):
    return options


CASES = {
    "all taken": ({"width": 1, "rope_scaling": True}, {}, {"width": 1, "rope_scaling": True}),
    "lacking, and the same without": ({"width": 1, "new": None}, {"new": None}, {"width": 1}),
}


@pytest.mark.parametrize(("wanted", "without", "given"), CASES.values(), ids=CASES)
def test_what_is_handed_over(wanted, without, given):
    assert keywords(model, wanted, without) == given


def test_a_function_that_takes_anything_gets_everything():
    assert keywords(fork, {"new": 2}, {}) == {"new": 2}


@pytest.mark.parametrize("without", [{}, {"new": None}], ids=["unknown", "another value"])
def test_what_would_be_something_else_is_refused(without):
    with pytest.raises(QuantctlError, match=r"cannot do new=2: model takes no new"):
        keywords(model, {"new": 2}, without, [])


def test_details_are_noted_where_there_is_a_list():
    left_out: list[str] = []
    wanted = {"rope_scaling_factor": 32.0}
    assert keywords(model, wanted, {}, left_out) == {}
    assert left_out == ["rope_scaling_factor=32.0"]
    with pytest.raises(QuantctlError, match="takes no rope_scaling_factor"):
        keywords(model, wanted, {})
