"""Runs of the smallest network that the scripts can be told to train, on a CPU, without a corpus."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from . import slurm as slurm_

TINY = (
    *("--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "127"),
    *("--num-layers", "1", "--hidden-size", "64", "--ffn-hidden-size", "64", "--kv-channels", "32"),
    *("--num-attention-heads", "2", "--num-query-groups", "2", "--seq-length", "32"),
    *("--micro-batch-size", "2", "--global-batch-size", "2", "--log-interval", "1", "--eval-iters", "0"),
)
"""Megatron flags that win over the script's own."""


def smoke_environment(run_dir: Path | None = None, **changes: str) -> dict[str, str]:
    """The scripts' environment for a CPU, with this Python's quantctl."""
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "TRAINING_CONFIG": "smoke",
        "PLATFORM": "cpu",
        "TRAIN_ITERS": "2",
        **({"RUN_DIR": str(run_dir)} if run_dir else {}),
        **changes,
    }


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def formats(run_dir: Path) -> dict[str, list[str]]:
    """Site -> formats that were counted."""
    proof = read(run_dir / "proof.json")
    assert proof["ok"], proof["problems"]
    return {site: list(specs) for site, specs in proof["calls"].items() if site != "attention"}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A Slurm with two nodes on this machine."""
    reason = slurm_.missing()
    if reason:
        pytest.skip(reason)
    cluster = slurm_.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
