"""What only a GPU can tell of Transformer Engine's layers: its own kernels beside the selectors.

Part of `make kernels-gpu`; alone:
QUANTCTL_TEST_DEVICE=cuda python -m pytest tests/patches/test_te_on_gpu.py, with a Python that has Transformer Engine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import te_wheels

from quantctl.tree.state import plan, read_state

RELEASE = "0.16.1"
SUPPORT = Path(te_wheels.__file__).parent
ASKED = {"linear": "mxfp8", "qk": "mxfp8"}

pytestmark = pytest.mark.skipif(
    os.environ.get("QUANTCTL_TEST_DEVICE") != "cuda" or importlib.util.find_spec("transformer_engine") is None,
    reason="asks for a GPU and for Transformer Engine: QUANTCTL_TEST_DEVICE=cuda",
)


def on_gpu(script: str, *arguments: str) -> list[dict]:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / script), *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def tree(megatron_tree, tmp_path):
    target = tmp_path / RELEASE
    shutil.copytree(megatron_tree(RELEASE), target)
    for file, raw in plan(read_state(target), {}).items():
        (target / file).write_bytes(raw)
    return target


def test_products_and_norms_are_the_local_layers(tree):
    found = on_gpu("te_layers.py", str(tree), "1")
    assert len(found) > 20
    assert not [line["case"] for line in found if line["unequal"]]


@pytest.mark.parametrize("case", ["dense", "latent", "experts"])
def test_stock_kernels_run_where_nothing_is_asked(megatron_tree, tree, case):
    config = {"case": case, "config": {"bf16": True}}
    stock, model = {"tree": str(megatron_tree(RELEASE)), **config}, {"tree": str(tree), **config}
    (before,) = on_gpu("te_models.py", json.dumps([stock]))
    both = [{**model, **ASKED, "layers": kind} for kind in ("transformer_engine", "local")]
    none, te, local = on_gpu("te_models.py", json.dumps([model, *both]))
    assert none["losses"] == before["losses"]
    assert te["hits"] == local["hits"]
    for ours, theirs in zip(te["losses"], local["losses"], strict=True):
        assert float.fromhex(ours) == pytest.approx(float.fromhex(theirs), rel=1e-2)
