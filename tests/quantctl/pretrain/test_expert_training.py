"""The trainer with experts on two expert parallel ranks: the run of one process, and going on from a checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from quantctl.pretrain import checkpoint
from quantctl.tree.state import plan, read_state

# Adam with epsilon 1 moves weights by lr x gradient and so does not amplify rounding, as lr x sign(gradient) does
MODEL = (
    "--num-experts 8 --moe-router-topk 2 --moe-ffn-hidden-size 16 --moe-shared-expert-intermediate-size 32 "
    "--moe-layer-freq [0,1] --moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 0.01 "
    "--moe-router-pre-softmax --moe-router-dtype fp32 --moe-token-dispatcher-type alltoall "
    "--adam-eps 1 --lr 0.5 --weight-decay 0 --train-iters 6 --eval-interval 3 --eval-iters 2"
)


def patched(stock: Path, tree: Path) -> Path:
    shutil.copytree(stock / "megatron", tree / "megatron")
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    return tree


@pytest.fixture(scope="module")
def tree(megatron_tree, tmp_path_factory) -> Path:
    return patched(megatron_tree("0.16.1"), tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def pair(train, tree, tmp_path_factory):
    """Two ranks, each with half of the samples and half of the experts."""
    folder = tmp_path_factory.mktemp("pair")
    output = ["--save", folder / "ckpt", "--save-interval", 3, "--tensorboard-dir", folder / "events"]
    return train(*MODEL.split(), "--expert-model-parallel-size", 2, *output, ranks=2, tree=tree), folder


def test_two_ranks_compute_what_one_does(train, tree, pair) -> None:
    one, (two, _) = train(*MODEL.split(), tree=tree), pair
    # The order of sums differs, as in test_tensor_parallel_computes_the_same: a layer has at most 9 products with
    # sums of at most n = 64 terms, the output layer one.
    u, n, products, logit, loss = 2**-24, 64, 2 * 9 + 1, 0.64, math.log(256)
    one_pass = 2 * products * n * u * logit + 4 * u * loss
    assert list(two.losses) == list(one.losses) == list(range(1, 7))
    for i in one.losses:
        assert abs(two.losses[i] - one.losses[i]) <= i * one_pass + 1e-6, i  # + what seven digits in the log hide
        assert two.fields[i]["grad norm"] == pytest.approx(one.fields[i]["grad norm"], abs=2e-3), i
        assert two.fields[i]["consumed samples"] == one.fields[i]["consumed samples"] == 4 * i
        balance = [run.fields[i]["seq_load_balancing_loss"] for run in (one, two)]
        # about 1 with even loads; a float32 product over 8 experts and 16 tokens
        assert balance[0] == pytest.approx(1, abs=0.2)
        assert balance[1] == pytest.approx(balance[0], rel=16 * 8 * u + i * one_pass)
    assert one.losses[6] < one.losses[1]
    # one dense and one sparse layer; every expert counts once
    attention, norms = 32 * 64 + 32 * 32, 2 * 32
    dense, sparse = 3 * 32 * 64, 8 * 32 + 8 * 3 * 32 * 16 + 3 * 32 * 32
    for run in (one, two):
        assert f"parameters  {256 * 32 + 2 * (attention + norms) + dense + sparse + 32:,}\n" in run.err
    assert "tensor parallel 1, data parallel 2, expert parallel 2\n" in two.err
    assert "memory (MB) | max resident: " in two.out


def test_both_ranks_continue_to_the_last_bit(train, tree, pair, scalars, tmp_path) -> None:
    _, folder = pair
    saved = folder / "ckpt" / "iter_0000003"
    assert sorted(path.name for path in saved.iterdir()) == ["mp_rank_00_000", "mp_rank_00_001"]
    shutil.copytree(saved, tmp_path / "iter_0000003")
    (tmp_path / checkpoint.TRACKER).write_text("3")
    flags = ["--expert-model-parallel-size", 2, "--load", tmp_path, "--tensorboard-dir", tmp_path / "events"]
    train(*MODEL.split(), *flags, ranks=2, tree=tree)
    whole, rest = scalars(folder / "events"), scalars(tmp_path / "events")
    for tag in ("lm loss", "grad-norm", "seq_load_balancing_loss", "lm loss validation"):
        assert rest[tag] == {i: value for i, value in whole[tag].items() if i > 3}, tag
    refused = train(*MODEL.split(), "--load", folder / "ckpt", tree=tree, status=2)
    assert "mp_rank_00/model_optim_rng.pt does not exist" in refused.err


OVERRIDE = """
import typing, typing_extensions
if not hasattr(typing, "override"):  # releases from 0.17 on say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override
"""


@pytest.mark.releases
@pytest.mark.parametrize("release", ["0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.17.1", "0.18.2", "0.19.2", "main"])
def test_every_release_computes_the_same(train, prose, tree, megatron_tree, tmp_path, release) -> None:
    other = patched(megatron_tree(release), tmp_path / "tree")
    (other / "sitecustomize.py").write_text(OVERRIDE)
    datasets = Path("megatron/core/datasets")
    if not list((other / datasets).glob("helpers_cpp*-311-*")):
        refused = train(*MODEL.split(), data=prose, tree=other, status=2)
        assert "the dataset helpers of this Megatron tree are not compiled for this Python" in refused.err
        assert f"make -C {other / datasets}" in refused.err
        (compiled,) = (tree / datasets).glob("helpers_cpp*")
        shutil.copy(compiled, other / datasets)
    run, wanted = (train(*MODEL.split(), data=prose, tree=one) for one in (other, tree))
    assert run.losses == wanted.losses
    balance = "load_balancing_loss" if release in ("0.12.3", "0.13.1") else "seq_load_balancing_loss"
    for i, fields in run.fields.items():
        assert fields[balance] == wanted.fields[i]["seq_load_balancing_loss"]
