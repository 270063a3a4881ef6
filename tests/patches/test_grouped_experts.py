"""Megatron's experts computed together and in the loop: equal outputs and gradients, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from daily import daily
from warm_python import python

HARNESS = Path(__file__).resolve().parents[1] / "support" / "experts.py"

EVERYWHERE = (
    *(
        "plain",
        "not gated",
        "fused activation",
        "fused weight gradients",
        "bf16",
        "frozen",
        "main_grad",
        "hook",
        "gathered",
    ),
    *("tokens without gradient", "no tokens"),
)
CASES = {
    "0.10.0": (*EVERYWHERE, "bias"),
    "0.12.0": (*EVERYWHERE, "bias"),
    "0.12.3": (*EVERYWHERE, "weights applied first"),
    "0.13.1": (*EVERYWHERE, "weights applied first"),
    "0.14.0": (*EVERYWHERE, "weights applied first"),
    **dict.fromkeys(
        ("0.15.3", "0.16.1", "0.17.1", "0.18.2", "0.19.0", "0.19.2", "main"),
        (*EVERYWHERE, "weights applied first", "bias", "clamped"),
    ),
}
RUN_ALWAYS = ("0.10.0", "0.16.1")
RELEASES = daily(RUN_ALWAYS, CASES)
WITHOUT_PROBS = ("0.10.0", "0.12.0")
"""Releases that apply the routing weights behind the experts."""
IN_THE_LOOP = ("fused weight gradients", "hook")
"""What is not covered."""


def run(tree: Path, *cases: str, **variables: str) -> dict[str, dict]:
    done = python(HARNESS, *cases, env={**os.environ, "PYTHONPATH": str(tree), **variables})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line.pop("case"): line for line in lines}


def calls(case: str, way: str) -> dict[str, int]:
    """Two products of four experts in each of three micro batches, of which one call computes four."""
    counts = dict.fromkeys(("fprop", "dgrad", "wgrad"), 2 * (1 if case == "no tokens" else 3))
    if way == "together" and case == "tokens without gradient":
        counts["dgrad"] //= 2  # of the second layer; Megatron's layers do not ask whether it is needed
    if way == "loop" or case in IN_THE_LOOP:
        counts = {product: 4 * n for product, n in counts.items()}
        counts["wgrad"] -= 6 * (case == "frozen")
    return counts


def expected_missing(case: str, release: str) -> set[str]:
    """Results that are None: gradients that nobody asked for, and biases where there are none or they are added."""
    batches = range(1 if case == "no tokens" else 3)
    names = {f"bias {batch}" for batch in batches if case != "bias" or release not in WITHOUT_PROBS}
    if release in WITHOUT_PROBS:
        names |= {f"probs {batch}" for batch in batches}
    if case == "tokens without gradient":
        names |= {f"hidden {batch}" for batch in batches}
    if case == "frozen":
        names |= {f"local_experts.1.linear_fc{layer}.weight" for layer in (1, 2)}
    return names


@pytest.mark.parametrize("release", RELEASES)
def test_together_equals_the_loop(patched, release) -> None:
    results = run(patched(release, linear="mxfp8"), *CASES[release], QUANTCTL_WEIGHT_REUSE="1")
    assert set(results) == set(CASES[release])
    for case, result in results.items():
        together, loop = result["together"], result["loop"]
        assert "error" not in loop["values"], (case, loop["values"])
        assert together["values"] == loop["values"], case
        assert together["checkpoint"] == loop["checkpoint"]
        missing = {name for name, value in together["values"].items() if value is None}
        assert missing == expected_missing(case, release), case
        for way in ("together", "loop"):
            assert result[way]["hits"] == {"linear": calls(case, way)}, (case, way)


@pytest.mark.parametrize("release", ["0.12.0", "0.16.1"])
def test_a_tree_takes_one_of_the_two_patches(patched, release) -> None:
    source = (patched(release) / "megatron/core/transformer/moe/experts.py").read_text()
    assert source.count("quantctl_experts.forward(") == 1
    assert ("permuted_probs, quant_type" in source) == (release == "0.16.1")
