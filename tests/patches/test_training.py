"""Patched trees train a real GPTModel: `none` is stock in every bit, and each selector reaches its products."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.state import plan, read_state

STEP = Path(__file__).resolve().parents[1] / "support" / "gpt_step.py"
RELEASES = ("0.12.3", "0.16.1")
VARIANTS = {"untied": (), "tied, with biases and a frozen weight": ("--tied", "--bias", "--freeze")}


def train_step(tree: Path, *options: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(STEP), *options],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("tree").startswith(str(tree))
    return result


def patched(stock: Path, target: Path, values: dict[str, str]) -> Path:
    shutil.copytree(stock, target)
    for file, raw in plan(read_state(target), values).items():
        (target / file).write_bytes(raw)
    return target


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_none_is_stock_in_every_bit(megatron_tree, tmp_path, release, options):
    stock = megatron_tree(release)
    before = train_step(stock, *options)
    after = train_step(patched(stock, tmp_path / "tree", {}), *options)
    assert after == before
    assert not after["quantctl_imported"]
    assert after["gradients"]


VALUES = {"linear": "mxfp4", "lm_head": "hifp8", "qk": "mxfp8", "pv": "mxfp8:elem=e5m2"}


def _expected_hits(frozen_weights: int) -> dict:
    """Two layers of four linear products (qkv, proj, fc1, fc2) and one attention each; one output layer."""
    calls = {"linear": 8, "lm_head": 1, "qk": 2, "pv": 2}
    hits = {site: {VALUES[site]: dict.fromkeys(("fprop", "dgrad", "wgrad"), n)} for site, n in calls.items()}
    hits["linear"][VALUES["linear"]]["wgrad"] -= frozen_weights
    return hits


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_each_selector_reaches_its_products_and_no_others(megatron_tree, tmp_path, release, options):
    tree = patched(megatron_tree(release), tmp_path / "tree", VALUES)
    assert train_step(tree, *options)["hits"] == _expected_hits(frozen_weights=int("--freeze" in options))


def test_bias_gradient_is_not_quantized(megatron_tree, tmp_path):
    """With the straight-through backward only W and X are quantized, so the last layer's bias gradient stays stock's
    if the output gradient it sums is the unquantized one: compare bwd=quantized with bwd=high_precision."""
    stock = megatron_tree("0.16.1")
    last_bias = "decoder.layers.1.mlp.linear_fc2.bias"
    gradients = [
        train_step(patched(stock, tmp_path / bwd, {"linear": f"mxfp4:bwd={bwd}"}), "--bias")["gradients"][last_bias]
        for bwd in ("quantized", "high_precision")
    ]
    assert gradients[0] == gradients[1]


def test_unknown_value_stops_the_run(megatron_tree, tmp_path):
    tree = patched(megatron_tree("0.16.1"), tmp_path / "tree", {"linear": "mxfp8"})
    layers = tree / "megatron/core/tensor_parallel/layers.py"
    layers.write_text(layers.read_text().replace("_linear = 'mxfp8'", "_linear = 'mxpf8'"))
    done = subprocess.run(
        [sys.executable, str(STEP)], env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "'mxpf8' is not a format spec" in done.stderr
