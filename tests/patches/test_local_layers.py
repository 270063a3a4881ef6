"""Models whose local layers stock Megatron refuses: trained on patched trees, and refused again without the patch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from daily import RELEASES as ALL_RELEASES
from daily import daily
from warm_python import python

from quantctl.lint.case import Case, Setting
from quantctl.lint.command import find
from quantctl.lint.megatron_flags import nearest
from quantctl.lint.outline import outline
from quantctl.patches import transformer_engine
from quantctl.patches.registry import PATCHES
from quantctl.spec.outline import Outline
from quantctl.tree.state import PatchState, plan, read_state
from quantctl.tree.tree import find_tree

HARNESS = Path(__file__).resolve().parents[1] / "support" / "local_layers.py"
CASES = ("mla", "moe", "mtp", "mtp-tied")
RELEASES = daily(("0.12.3", "0.16.1"), ALL_RELEASES[ALL_RELEASES.index("0.12.3") :])


def run(tree: Path, *cases: str) -> dict[str, dict]:
    done = python(HARNESS, *cases, env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line.pop("case"): line for line in lines}


MOE = "--num-experts 8 --moe-shared-expert-intermediate-size 64"
FLAGS = {
    "mla": "--multi-latent-attention",
    "moe": MOE,
    "mtp": "--mtp-num-layers 1 --untie-embeddings-and-output-weights",
    "mtp-tied": "--mtp-num-layers 1",
    "deepseek": f"--multi-latent-attention --q-lora-rank 24 {MOE} --moe-layer-freq ([0]+[1]) --mtp-num-layers 2",
}


def foreseen(tree: Path, case: str) -> dict[str, int | None]:
    """Name and layer of each module of the case's model, by its flags."""
    words = ["pretrain_gpt.py", "--transformer-impl", "local", "--num-layers", "2", *FLAGS[case].split()]
    setting = Setting(nearest(find_tree(tree).version()), tree, read_state(tree))
    found = outline(Case(find(words), setting))
    assert isinstance(found, Outline), found
    return {module.name: module.layer for modules in found.modules.values() for module in modules}


@pytest.mark.parametrize("release", RELEASES)
def test_every_model_trains(patched, release):
    tree = patched(release)
    results = run(tree, *CASES, "deepseek")
    for case, result in results.items():
        assert "error" not in result, result["error"]
        assert result.pop("products") == foreseen(tree, case), case
    del results["deepseek"]
    for result in results.values():
        assert result["without_gradient"] == []
        assert result["hits"] == {}
    assert results["mla"]["widths"] == [96, 96]  # 4 heads with values of 24; kv_channels would say 64
    assert max(results["mla"]["errors_in_bounds"]) <= 1


VALUES = {"linear": "mxfp8", "lm_head": "hifp8", "qk": "mxfp8", "pv": "mxfp4"}
CALLS = {
    # two layers: query, KV down, KV up, output and the two of the MLP
    "mla": {"linear": 12, "lm_head": 1, "qk": 2, "pv": 2},
    # two layers: qkv, output, the two grouped products of 8 experts, the two of the shared expert; the router and the
    # shared expert's gate would be two more
    "moe": {"linear": 12, "lm_head": 1, "qk": 2, "pv": 2},
    # three layers of four, and the projection in front of the third, which calls the output layer again
    "mtp": {"linear": 13, "lm_head": 2, "qk": 3, "pv": 3},
    "mtp-tied": {"linear": 13, "lm_head": 2, "qk": 3, "pv": 3},
}


@pytest.mark.parametrize("release", RELEASES)
def test_each_selector_reaches_its_products_and_no_others(patched, release):
    results = run(patched(release, **VALUES), *CASES)
    for case, calls in CALLS.items():
        assert results[case]["hits"] == {
            site: dict.fromkeys(("fprop", "dgrad", "wgrad"), count) for site, count in calls.items()
        }, case


def test_none_is_stock_in_every_bit_where_stock_can(megatron_tree, patched):
    possible = ("moe", "mtp", "mtp-tied")
    assert run(patched("0.12.3"), *possible) == run(megatron_tree("0.12.3"), *possible)


NEEDED = [
    (
        "0.12.3",
        "mla",
        "mla",
        "TypeError: DotProductAttention.__init__() got an unexpected keyword argument 'k_channels'",
    ),
    ("0.16.1", "mla_without_te", "mla", "TypeError: isinstance() arg 2 must be a type"),
    ("0.19.2", "mla_q_norm", "mla", "`q_lora_rank is None`"),
    pytest.param(
        *("0.13.1", "moe_without_te", "moe", "NameError: name 'te_general_gemm' is not defined"),
        marks=pytest.mark.releases,
    ),
    ("0.16.1", "moe_without_te", "moe", "NameError: name 'te_general_gemm' is not defined"),
    ("main", "mtp_without_te", "mtp", "TypeError: isinstance() arg 2 must be a type"),
]


@pytest.mark.parametrize(("release", "name", "case", "error"), NEEDED)
def test_without_the_patch_it_stops(megatron_tree, patched, release, name, case, error):
    tree = patched(release)
    assert "error" not in run(tree, case)[case]
    (patch,) = (patch for patch in PATCHES if patch.name == name)
    (tree / patch.file).write_bytes((megatron_tree(release) / patch.file).read_bytes())
    assert error in run(tree, case)[case]["error"]


NEEDED_IN = {
    "names": ALL_RELEASES[:-1],
    "mla": ALL_RELEASES[:-1],
    "mla_without_te": ("0.14.0", "0.15.3", "0.16.1"),
    "mla_q_norm": ("0.19.0", "0.19.2"),
    "mla_tensor_parallel": ALL_RELEASES[1:-1],
    "rmsnorm_sp": ALL_RELEASES[:-1],
    "moe_without_te": ("0.13.1", "0.14.0", "0.15.3", "0.16.1"),
    "mtp_without_te": (),
    "grouped_experts": ALL_RELEASES[3:-1],
    "grouped_experts_without_probs": ALL_RELEASES[:3],
    "rope_scaling_factor:pretrain_gpt": (),
    "rope_scaling_factor:gpt_builders": (),
    "rope_scaling_factor:argument_utils": ("0.19.0", "0.19.2"),
    **{patch.name: ALL_RELEASES[:-1] for patch in transformer_engine.PATCHES},
}


@pytest.mark.parametrize("release", NEEDED_IN["mla"])
def test_the_releases_that_need_each_patch(megatron_tree, release):
    """In a wheel: pretrain_gpt.py and gpt_builders.py are in none."""
    state = read_state(megatron_tree(release))
    available = {patch.name for patch in state.available() if not patch.required}
    assert available == {name for name, releases in NEEDED_IN.items() if release in releases}
    after = plan(state, {})
    for patch in state.available():
        assert patch.mark in after[patch.file], patch.name


def test_a_patch_that_does_not_fit_is_left_out(stock_copy):
    tree = stock_copy("0.16.1")
    norm = tree / "megatron/core/transformer/torch_norm.py"
    norm.write_text(norm.read_text().replace("return norm_cls(", "return build_norm("))
    after = plan(read_state(tree), {})
    assert "megatron/core/transformer/torch_norm.py" not in after
    assert "megatron/core/transformer/multi_latent_attention.py" in after


def test_a_patched_tree_knows_its_patches(patched):
    state = read_state(patched("0.16.1"))
    applied = {name for name, found in state.patches.items() if found is PatchState.APPLIED}
    required = {"linear", "lm_head", "attention", "fused_attention"}
    assert applied == required | {name for name, releases in NEEDED_IN.items() if "0.16.1" in releases}
    assert plan(state, {}) == {}
