"""Sequence parallelism over two ranks against one rank: the same loss and, after Megatron's reduction, gradients.

Bound. Both runs make the same products and differ in the order of float32 additions: partial sums over ranks in the
projections, in the norms' gradients and in the softmax of the loss. On the longest path through a model of two layers a
value meets sums of lengths 64 (hidden), 32 (keys), 64 (all heads), 64 and 128 (the two of the MLP) in each layer, 64
and 96 (vocabulary) in the output layer, all of them twice for the way back, and the 64 tokens of a weight gradient at
the end: n = 2 (2 x 352 + 160) + 64 = 1792 roundings of u = 2^-24. A sum of n terms is off by n u = 1.1e-4 of the sum of
their magnitudes, for which the parameter's largest gradient stands here. A sum over two ranks that lacks one of them is
off by about a half.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from warm_python import python

HARNESS = Path(__file__).resolve().parents[1] / "support" / "local_layers.py"
ROUNDINGS = 2 * (2 * (64 + 32 + 64 + 64 + 128) + 64 + 96) + 64
BOUND = ROUNDINGS * 2.0**-24


def _rank(tree: Path, folder: Path, normalization: str, world: int, rank: int) -> subprocess.CompletedProcess[str]:
    return python(
        *(HARNESS, "norms", "--normalization", normalization, "--world", world, "--rank", rank),
        *("--store", folder / f"store{world}", "--output", folder / f"{world}.pt"),
        env={**os.environ, "PYTHONPATH": str(tree)},
    )


def _ranks(tree: Path, folder: Path, normalization: str, worlds: Sequence[int]) -> list[subprocess.CompletedProcess]:
    """All ranks of all worlds, side by side."""
    every = [(world, rank) for world in worlds for rank in range(world)]
    with ThreadPoolExecutor(len(every)) as pool:
        return list(pool.map(lambda one: _rank(tree, folder, normalization, *one), every))


def results(tree: Path, folder: Path, normalization: str) -> list[dict]:
    """Loss and gradients of one rank and of two."""
    done = _ranks(tree, folder, normalization, (1, 2))
    assert not any(one.returncode for one in done), "\n".join(one.stderr for one in done)
    return [torch.load(folder / f"{world}.pt") for world in (1, 2)]


def off(one: dict, two: dict) -> dict[str, float]:
    """By parameter, the largest difference over the largest gradient."""
    assert one.keys() == two.keys()
    return {name: ((one[name] - two[name]).abs().max() / one[name].abs().max()).item() for name in one}


@pytest.mark.parametrize(
    ("release", "normalization"), [("0.12.3", "RMSNorm"), ("0.16.1", "RMSNorm"), ("0.16.1", "LayerNorm")]
)
def test_two_ranks_compute_what_one_computes(patched, tmp_path, release, normalization):
    one, two = results(patched(release), tmp_path, normalization)
    assert abs(one["loss"] - two["loss"]) <= BOUND * abs(one["loss"])
    assert max(off(one["after"], two["after"]).values()) <= BOUND
    # each rank has half of the sequence, so only the reduction makes the norms' gradients whole
    split = {name for name, error in off(one["before"], two["before"]).items() if error > BOUND}
    assert split == {name for name in one["before"] if "norm" in name}


def test_stock_refuses(megatron_tree, tmp_path):
    done = _ranks(megatron_tree("0.16.1"), tmp_path, "RMSNorm", (2,))
    assert all("sequence parallel not supported by torch LayerNorm" in one.stderr for one in done)
