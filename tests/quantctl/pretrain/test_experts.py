"""DeepSeek-V2-Lite's kind of layers, at its true head widths (qk 192, v 128) and with 64 experts, 6 a token.

Which products the selectors reach, that the router is none of them, and that quantctl's kernels issue no operation
whose output shape or control flow depends on data (Ascend NPUs and torch.compile cannot have those).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from warm_python import python

from quantctl.tree.state import plan, read_state

STEPS = {
    "none": {},
    "each site": {"linear": "mxfp8", "lm_head": "hifp8", "qk": "mxfp8", "pv": "mxfp4"},
    "one by one": {"linear": "mxfp8", "loop": True},
    "other formats": {
        "linear": "mxfp4:round=stochastic",
        "lm_head": "nvfp4",
        "qk": "hifp8",
        "pv": "hifp8:scale=tensor",
    },
    "all backward": {"linear": "mxfp6", "qk": "mxfp8:bwd=quantized", "pv": "mxfp8:bwd=quantized"},
    "auto": {"linear": "nvfp4", "qk": "mxfp8", "pv": "mxfp8", "attention": "auto"},
}
# two layers with four projections, a dense MLP, shared experts, and experts in two grouped products or one by one
LINEAR = 2 * 4 + 2 + 2 + 2
CALLS = {"linear": LINEAR, "lm_head": 1, "qk": 2, "pv": 2}


@pytest.fixture(scope="module")
def steps(megatron_tree, tmp_path_factory) -> dict[str, dict]:
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(megatron_tree("0.16.1") / "megatron", tree / "megatron")
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    probe = Path(__file__).with_name("probe_experts.py")
    # the kernels that accelerators run; on a CPU nothing waits for what a value is
    environment = {**os.environ, "PYTHONPATH": str(tree), "QUANTCTL_KERNELS": "reference"}
    done = python(probe, *map(json.dumps, STEPS.values()), env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(STEPS, lines, strict=True))


@pytest.mark.parametrize("step", STEPS)
def test_each_selector_reaches_its_products_and_no_others(steps, step) -> None:
    calls = CALLS | ({"linear": LINEAR - 2 + 2 * 64} if step == "one by one" else {})
    wanted = {
        site: {spec: dict.fromkeys(("fprop", "dgrad", "wgrad"), calls[site])}
        for site, spec in STEPS[step].items()
        if site in calls
    }
    assert {site: found for site, found in steps[step]["hits"].items() if site != "attention"} == wanted


def test_heads_have_their_true_widths(steps) -> None:
    for step in steps.values():
        assert step["widths"] == [[128 + 64, 128 + 64, 128, 2 * 128]] * 2  # q, k, v, and two heads of output


def test_the_router_is_not_quantized(steps) -> None:
    """Its logits equal in every bit the product of what it got and its weight; in mxfp8 that would be another one."""
    for step in steps.values():
        assert step["router_plain"] == [True]
        assert step["router_quantized"] == [False]


def test_formats_show_in_the_loss(steps) -> None:
    assert len({step["loss"] for step in steps.values()}) == len(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_kernels_issue_nothing_that_depends_on_data(steps, step) -> None:
    found = steps[step]["dependent"]
    assert steps[step]["operations"] > 3000
    # the mode sees such operations: Megatron's dispatcher selects tokens by a mask and asks how many an expert got
    assert found["others: masked_select"] == 2
    assert found["others: _local_scalar_dense"] >= 1
    of_kernels = [where for where in found if where.startswith("kernels:")]
    if step == "auto":  # asks once, ahead of the products, whether the mask is causal
        of_kernels = [where for where in of_kernels if "/causal_mask.py:" not in where]
    assert of_kernels == []


def test_operations_are_counted_as_torch_counts_them(steps) -> None:
    """Two samples of 32 tokens. Megatron-LM counts half of the attention products, and not the router's."""
    tokens, heads = 2 * 32, 2
    attention = 6 * tokens * 2 * heads * 32 * (192 + 128)  # forward and backward, two layers, unfused and so whole
    router = 6 * tokens * 128 * 64
    assert steps["none"]["flops"] == 2 * steps["none"]["flops_per_sample"] + attention / 2 + router
