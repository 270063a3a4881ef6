"""Results with the Triton kernels against results with the reference."""

from __future__ import annotations

import os

import pytest
import torch

from quantctl.bench.compare import check, equals_reference
from quantctl.bench.result import EQUAL, Row
from quantctl.kernels import dispatch

X = torch.tensor([1.0, -0.0, 3.0], dtype=torch.bfloat16)


def by_choice(triton: torch.Tensor | Exception, reference: torch.Tensor | Exception):
    def run() -> list[torch.Tensor]:
        chosen = reference if os.environ.get("QUANTCTL_KERNELS") == "reference" else triton
        if isinstance(chosen, Exception):
            raise chosen
        return [X, chosen]

    return run


@pytest.mark.parametrize(
    ("reference", "equal"),
    [(X, True), (X.abs(), False), (torch.cuda.OutOfMemoryError("no"), None)],
    ids=["same bits", "another zero", "too large"],
)
def test_bits_count(reference, equal) -> None:
    assert equals_reference(by_choice(X, reference)) is equal
    assert "QUANTCTL_KERNELS" not in os.environ


def test_an_error_of_the_reference_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="broken"):
        equals_reference(by_choice(X, ValueError("broken")))


def test_a_comparison_that_fails_is_a_finding_with_its_reason(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "family", lambda device: dispatch.TRITON)
    found = check(by_choice(X, ValueError("broken")), torch.device("cpu"))
    assert found == {EQUAL: False, "comparison": "ValueError: broken"}


def test_the_reference_itself_was_timed(monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
    assert check(by_choice(X, X.abs()), torch.device("cpu")) == {}


def test_the_fact_is_what_makes_a_finding() -> None:
    assert Row("b", "c", "s", facts={EQUAL: False}).is_finding
