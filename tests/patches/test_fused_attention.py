"""Selector `attention` in real trees: what it computes, what it keeps, what it leaves to the stock flow and why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from daily import daily
from warm_python import python

HARNESS = Path(__file__).resolve().parents[1] / "support" / "fused_attention.py"
RELEASES = daily(("0.16.1", "0.19.2"))
MODELS = {"one-layer": 1, "gqa": 2, "mla": 2, "layer-scaling": 2, "bf16": 2}
"""Layers by model."""


def run(tree: Path, *cases: str) -> dict[str, dict]:
    done = python(HARNESS, *cases, env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line.pop("case"): line | {"stderr": done.stderr} for line in lines}


def products(calls: int) -> dict[str, int]:
    return dict.fromkeys(("fprop", "dgrad", "wgrad"), calls)


@pytest.mark.parametrize("release", RELEASES)
def test_a_step_is_the_unfused_one_within_the_bound(patched, release):
    results = run(patched(release, attention="auto", qk="mxfp8"), *MODELS)
    for case, layers in MODELS.items():
        result = results[case]
        assert result["hits"] == {"attention": {"fused": {"torch sdpa": layers}}, "qk": {"mxfp8": products(layers)}}
        assert result["scores"] == []
        assert len(result["distances"]) == layers
        for distance in result["distances"]:
            assert distance.keys() == {"auto", "unfused"}
            assert max(distance.values()) <= 1
        assert result["stderr"].count("quantctl: attention=auto is fused here: torch sdpa\n") == 1
    one = results["one-layer"]
    assert abs(one["loss"] - one["unfused_loss"]) <= one["loss_bound"]


def test_what_a_fork_computes_between_the_products_is_computed(patched):
    """Logit softcapping in the method: `auto` is the unfused flow, and says why."""
    tree = patched("0.16.1", attention="auto", qk="mxfp8")
    file = tree / "megatron/core/transformer/dot_product_attention.py"
    line = "        attention_scores = matmul_result.view(*output_size)\n"
    text = file.read_text()
    assert text.count(line) == 1
    file.write_text(text.replace(line, f"        matmul_result = 2.0 * torch.tanh(matmul_result / 2.0)\n{line}"))
    result = run(tree, "gqa")["gqa"]
    ((reason, calls),) = result["hits"]["attention"]["unfused"].items()
    assert calls == 2
    assert "DotProductAttention.forward is no known release's own code" in reason
    assert result["scores"]
    assert f"quantctl: attention=auto is unfused here: {reason}\n" in result["stderr"]


def test_unfused_keeps_the_scores(patched):
    """What the test above looks for is there without the selector."""
    result = run(patched("0.16.1", qk="mxfp8"), "gqa")["gqa"]
    assert result["scores"]
    assert "attention" not in result["hits"]


BY_QUANTCTL = {
    "pv": ({"pv": "mxfp8"}, {"pv": {"mxfp8": products(2)}}),
    "both": ({"qk": "mxfp4", "pv": "mxfp8"}, {"qk": {"mxfp4": products(2)}, "pv": {"mxfp8": products(2)}}),
    "gradients in high precision": (
        {"qk": "mxfp8:bwd=high_precision"},
        {"qk": {"mxfp8:bwd=high_precision": products(2)}},
    ),
}


@pytest.mark.parametrize(("values", "hits"), BY_QUANTCTL.values(), ids=BY_QUANTCTL)
def test_what_the_library_cannot_compute_is_fused_too(patched, values, hits):
    result = run(patched("0.16.1", attention="fused", **values), "gqa")["gqa"]
    assert result["hits"] == {"attention": {"fused": {"quantctl": 2}}} | hits
    assert result["scores"] == []
    assert all(max(distance.values()) <= 1 for distance in result.get("distances", ()))


REASONS = {
    "sinks": "attention sinks (softmax_offset)",
    "window": "a sliding window",
    "padding": "the mask type padding",
    "documents": "a mask that is not causal (--reset-attention-mask?)",
    "weights as a mask": "a mask of float32 [1, 1, 32, 32]",
    "dropout": "attention dropout of 0.1",
    "context parallelism": "context parallelism",
    "cache": "fewer queries than keys (inference with a cache)",
    "bias": "an attention bias",
    "packed": "packed sequences",
    "float64": "the operands are torch.float64",
}
FUSED = ("causal mask", "no mask", "evaluation")


def test_auto_leaves_the_rest_to_the_stock_flow_and_says_why_once(patched):
    results = run(patched("0.16.1", attention="auto"), *FUSED, *REASONS)
    for case, reason in REASONS.items():
        result = results[case]
        assert result["counted"] == {"unfused": {reason: 2}}
        assert result["said"] == f"quantctl: attention=auto is unfused here: {reason}\n"
        assert result["same"], "not what the stock flow gives, or not its error"
    for case in FUSED:
        assert results[case]["counted"] == {"fused": {"torch sdpa": 2}}
        assert results[case]["errors"] == []


def test_fused_refuses_them(patched):
    results = run(patched("0.16.1", attention="fused"), *FUSED, *REASONS)
    for case, reason in REASONS.items():
        (error, _) = results[case]["errors"]
        assert error.startswith(f"QuantctlError: attention=fused: no fused kernel takes this call: {reason}\n")
        assert "quantctl set --attention unfused" in error
        assert results[case]["counted"] == {}
    for case in FUSED:
        assert results[case]["errors"] == []


def test_gradients_of_qk_that_are_quantized_need_the_unfused_flow(patched):
    tree = patched("0.16.1", attention="auto", qk="mxfp8:bwd=quantized")
    reason = "qk=mxfp8:bwd=quantized quantizes the gradients of the scores, which only the unfused flow has"
    assert run(tree, "gqa")["gqa"]["hits"] == {
        "attention": {"unfused": {reason: 2}},
        "qk": {"mxfp8:bwd=quantized": products(2)},
    }
