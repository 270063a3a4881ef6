"""Modules that bypassed their selectors, in words."""

from __future__ import annotations

import pytest

from quantctl.runs.modules import bypassed
from quantctl.spec.names import fold


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([], []),
        (["output_layer"], ["output_layer"]),
        ([f"layers.{n}.fc2" for n in (0, 1, 2, 5)], ["layers.0-2,5.fc2"]),
        ([f"layers.{n}.experts.{e}.fc1" for n in (1, 2) for e in range(3)], ["layers.1-2.experts.0-2.fc1"]),
        (["layers.0.fc2", "layers.0.proj", "layers.1.fc2"], ["layers.0-1.fc2", "layers.0.proj"]),
    ],
)
def test_names_that_differ_in_a_number_are_one(names, folded):
    assert fold(names) == folded


def seen(*names):
    return {"modules": 4, "ran": 4, "bypassed": list(names)}


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        ({}, []),
        ({0: {}}, []),
        ({0: seen()}, []),
        ({0: seen("a.1", "a.2")}, ["linear says mxfp8, but 2 of 4 modules went another way: a.1-2"]),
        (
            {0: seen(), 2: seen("a.1"), 3: seen("a.1")},
            ["linear says mxfp8, but 1 of 4 modules on rank 2 (and on 1 more) went another way: a.1"],
        ),
    ],
)
def test_what_is_a_problem(ranks, problem):
    assert bypassed("linear", "mxfp8", ranks) == problem
