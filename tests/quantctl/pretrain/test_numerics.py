"""The parts that a loss curve does not show: frequencies, accumulation, the optimizer's arithmetic, the schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from warm_python import python

from quantctl.pretrain.arguments import parse
from quantctl.pretrain.schedule import build_schedule

MODEL = (
    "--num-layers 2 --hidden-size 64 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 32 "
    "--position-embedding-type rope --rotary-base 500000 --use-rope-scaling --rope-scaling-factor 32 --swiglu "
    "--normalization RMSNorm --add-qkv-bias --disable-bias-linear --attention-dropout 0 --hidden-dropout 0 "
    "--micro-batch-size 2 --train-iters 10 --lr 0.01 --lr-warmup-iters 2 --weight-decay 0.1 --clip-grad 0.5 "
    "--mock-data --tokenizer-type NullTokenizer --vocab-size 4095"
)


@pytest.fixture(scope="module", params=["0.16.1", "0.12.3"])
def probe(request, megatron_tree):
    """What probe_numerics.py prints for a bf16 and an fp32 model."""

    def run(*flags: str) -> dict:
        environment = {"PYTHONPATH": str(megatron_tree(request.param)), "OMP_NUM_THREADS": "1", "PATH": ""}
        program = Path(__file__).with_name("probe_numerics.py")
        done = python(program, *MODEL.split(), *flags, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run("--bf16")


def test_rope_scaling_uses_the_given_factor(probe) -> None:
    """Llama 3.1: wavelengths above 8192 are divided by the factor, below 2048 kept, in between interpolated."""
    for i, found in enumerate(probe["inv_freq"]):
        frequency = 500000 ** (-2 * i / 32)
        smooth = min(1.0, max(0.0, (8192 * frequency / (2 * math.pi) - 1) / 3))
        assert found == pytest.approx((1 - smooth) * frequency / 32 + smooth * frequency, rel=1e-5), i
    assert probe["angles"] == [16, 1, 1, 32]


def test_gradients_of_bf16_weights_add_up_in_fp32(probe) -> None:
    assert probe["dtypes"] == ["torch.bfloat16"]
    assert probe["sums_equal"] is True


def test_the_norm_is_that_of_all_gradients(probe) -> None:
    exact, found = probe["norm"]
    assert exact > 0.5  # so that clipping takes part in the step below
    # n positive squares summed in fp32 are off by at most n 2^-24 of their sum, the root by half of that
    assert found == pytest.approx(exact, rel=probe["parameters"] * 2**-25)


def test_a_step_is_adamw_with_clipping(probe) -> None:
    # about ten fp32 operations on a weight and an update of at most lr
    assert probe["worst_step_error"] < 16 * 2**-24
    assert probe["lr"] == pytest.approx(0.01 / 2)


def test_biases_and_norms_do_not_decay(probe) -> None:
    for name, decay in probe["weight_decay"].items():
        assert decay == (0.0 if "norm" in name or name.endswith("bias") else 0.1), name
    assert sum(decay == 0.0 for decay in probe["weight_decay"].values()) == 2 * 3 + 1


SHAPES = {
    "constant": lambda r: 1.0,
    "linear": lambda r: 1 - r,
    "cosine": lambda r: (1 + math.cos(math.pi * r)) / 2,
}


@pytest.mark.filterwarnings("ignore:Transformer Engine and Apex")
@pytest.mark.parametrize("style", SHAPES)
def test_the_schedule_is_its_formula(style) -> None:
    flags = f"--lr-decay-style {style} --min-lr 0.001 --lr-warmup-init 0.002 --lr-decay-iters 8 --global-batch-size 4"
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [weight], "wd_mult": 0.5}], lr=0.01)
    schedule = build_schedule(parse(f"{MODEL} {flags}".split()), optimizer)  # type: ignore[arg-type]
    for n in range(11):
        (group,) = optimizer.param_groups
        if n <= 2:
            wanted = 0.002 + (0.01 - 0.002) * n / 2
        elif n <= 8:
            wanted = 0.01 if style == "constant" else 0.001 + (0.01 - 0.001) * SHAPES[style]((n - 2) / 6)
        else:
            wanted = 0.01 if style == "constant" else 0.001
        assert group["lr"] == pytest.approx(wanted, rel=1e-12), n
        assert group["weight_decay"] == pytest.approx(0.05)
        schedule.step(increment=4)
