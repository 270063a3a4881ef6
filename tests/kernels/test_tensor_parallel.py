"""Megatron's column-parallel and row-parallel layers on 1, 2 and 4 ranks, quantized: shards equal the whole.

Shards are whole blocks (a rank has 64 of 256 features at least), so each operand of each product, quantized, is the
rank's part of what one rank has, in every bit. What differs is the order in which a sum is added up: between ranks in
the forward of the row-parallel layer (Y) and the backward of the column-parallel one (dX), and within a GEMM of another
shape. Two measures of that:

mxfp4: every product of two elements is a multiple of 2^-k, and no sum reaches 2^(24-k), so float32 adds without an
error and no order matters: all results are equal in every bit. That it is so is checked in float64, not assumed.

mxfp8, hifp8: any order of n additions in float32 is off by at most n u / (1 - n u) of the sum of the magnitudes,
u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2): each result against float64 on the
operands of all ranks. What a rank quantizes of such a result may differ from what one rank has, so only the operands
that come before the first product are compared in every bit.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
import tensor_parallel
import torch
from torch import Tensor
from warm_python import python

from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.spec import products
from quantctl.spec.recipes import RECIPES
from quantctl.tree.state import plan, read_state

HARNESS = Path(__file__).resolve().parents[1] / "support" / "tensor_parallel.py"
WORLDS = (2, 4)
U = 2.0**-24

# product -> the axis of each operand that ranks split, as the GEMM receives them, None if each rank has the whole
SPLIT = {
    "fprop 1": (None, 1),  # X [tokens, h], W1^T [h, f]
    "fprop 2": (1, 0),  # X2 [tokens, f], W2^T [f, h]: the ranks' results are added up
    "dgrad 2": (None, 1),  # dY [tokens, h], W2 [h, f]
    "wgrad 2": (None, 1),  # dY^T [h, tokens], X2 [tokens, f]
    "dgrad 1": (1, 0),  # dY1 [tokens, f], W1 [f, h]: added up
    "wgrad 1": (0, None),  # dY1^T [f, tokens], X [tokens, h]
}
REDUCED = {"fprop 2": "Y", "dgrad 1": "dX"}
BEFORE_ANY_PRODUCT = {
    "fprop 1": (0, 1),
    "fprop 2": (1,),
    "dgrad 2": (0, 1),
    "wgrad 2": (0,),
    "dgrad 1": (1,),
    "wgrad 1": (1,),
}
"""The operands made of X, dY and the weights alone."""


@pytest.fixture(scope="module")
def ranks(megatron_tree, tmp_path_factory) -> dict[int, list[dict]]:
    """World size -> what each rank computed, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    tree = folder / "tree"
    shutil.copytree(megatron_tree("0.16.1"), tree)
    for file, raw in plan(read_state(tree), {"linear": "mxfp8"}).items():
        (tree / file).write_bytes(raw)
    done = python(HARNESS, str(folder), env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in (1, *WORLDS)}


def joined(parts: list[Tensor], axis: int | None) -> Tensor:
    """The whole of what ranks have parts of; if they all have it, they have the same."""
    if axis is not None:
        return torch.cat(parts, dim=axis)
    assert all(torch.equal(part, parts[0]) for part in parts)
    return parts[0]


def equal(actual: Tensor, expected: Tensor) -> bool:
    """In every bit; the sign of a zero does not count."""
    return torch.equal(actual, expected)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ["mxfp4", "mxfp4 straight-through", "mxfp4 with sequence parallelism"])
def test_where_sums_are_exact_everything_equals_one_rank(ranks, case, world) -> None:
    one = ranks[1][0]["mxfp4" if "sequence" in case else case]
    many = [results[case] for results in ranks[world]]
    for product, axes in SPLIT.items():
        a, b, result = one[product]
        assert equal((a.double() @ b.double()).float(), result), product  # so no order of additions matters
        for index, axis in enumerate(axes):
            assert equal(joined([results[product][index] for results in many], axis), one[product][index]), product
    sequence = 0 if "sequence" in case else None
    for name, axis in {"Y": sequence, "dX": sequence, "dW 1": 0, "dW 2": 1}.items():
        assert equal(joined([results["values"][name] for results in many], axis), one["values"][name]), name


@pytest.mark.parametrize(
    ("case", "world"),
    # deepseek-v3's blocks of 128 fit two shards of 256 features; a shard of 64 has blocks of its own
    [*itertools.product(["mxfp8", "hifp8", "32x32"], WORLDS), ("deepseek-v3", 2)],
)
def test_elsewhere_operands_are_equal_and_results_within_the_error_of_a_sum(ranks, case, world) -> None:
    one, many = ranks[1][0][case], [results[case] for results in ranks[world]]
    for product, axes in SPLIT.items():
        whole = [joined([results[product][i] for results in many], axis) for i, axis in enumerate(axes)]
        for index in BEFORE_ANY_PRODUCT[product]:
            assert equal(whole[index], one[product][index]), product
    _within_the_error_of_a_sum(many)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ["te-nvfp4", "te-current", "deepseek-v3"])
def test_a_scale_of_the_tensor_is_that_of_the_shard(ranks, case, world) -> None:
    """So is that of a block which the shards cut; results are within the error of a sum all the same."""
    many = [results[case] for results in ranks[world]]
    spec = products(RECIPES[case].linear).fprop[1].spec
    weights = tensor_parallel.whole()[1:3]
    for product, weight, axis in (("fprop 1", weights[0], 0), ("fprop 2", weights[1], 1)):
        for rank, results in enumerate(many):
            shard = weight.chunk(world, dim=axis)[rank].contiguous()
            assert equal(results[product][1], quantize_dequantize(shard, spec, 1).t()), product
    _within_the_error_of_a_sum(many, rounded=case == "te-nvfp4")


def _within_the_error_of_a_sum(many, rounded: bool = False) -> None:
    """rounded: stochastically, so that what each rank draws for its gradient is its own."""
    for product, axes in SPLIT.items():
        if rounded and product in ("dgrad 2", "wgrad 2", "wgrad 1"):
            for results in many:
                a, b = (operand.double() for operand in results[product][:2])
                n = a.shape[1]
                assert ((results[product][2] - a @ b).abs() <= n * U / (1 - n * U) * (a.abs() @ b.abs())).all()
            continue
        whole = [joined([results[product][i] for results in many], axis) for i, axis in enumerate(axes)]
        a, b = (operand.double() for operand in whole)
        if product in REDUCED:
            result = joined([results["values"][REDUCED[product]] for results in many], None).flatten(0, 1)
        else:
            axis = 1 if axes[1] == 1 else 0
            result = torch.cat([results[product][2] for results in many], dim=axis)
        n = a.shape[1]
        bound = n * U / (1 - n * U) * (a.abs() @ b.abs())
        assert ((result - a @ b).abs() <= bound).all(), product


def test_the_sums_of_mxfp8_are_not_exact(ranks) -> None:
    """Or the bound above would be about nothing."""
    a, b, result = ranks[1][0]["mxfp8"]["fprop 1"]
    assert not equal((a.double() @ b.double()).float(), result)
