"""A model by its flags: what is known, and why the rest is not. Models that releases built: tests/patches."""

from __future__ import annotations

import pytest
from daily import RELEASES, daily

from quantctl.lint import own_model
from quantctl.lint.case import Case, Setting
from quantctl.lint.command import find
from quantctl.lint.outline import Unknown, outline, steps
from quantctl.spec.outline import Outline

LOCAL = "pretrain_gpt.py --transformer-impl local --num-layers 4 --hidden-size 64"


def case(text: str, release: str = "0.16.1") -> Case:
    command = find(text.split())
    assert command is not None
    return Case(command, Setting(release))


UNKNOWN = {
    "another program": (
        "pretrain_mamba.py --num-layers 4 --hidden-size 64",
        "pretrain_mamba.py builds a model of its own",
    ),
    "encoder and decoder": ("pretrain_t5.py --num-layers 4", "pretrain_t5.py builds a model of its own"),
    "an adaptor": (f"python -m mindspeed.run {LOCAL}", "an adaptor in front of the program changes the model"),
    "for inference": (
        LOCAL.replace("local", "inference_optimized"),
        "its layers are neither the local ones nor Transformer Engine's",
    ),
    "a spec": (f"{LOCAL} --spec some.module layer_spec_local", "--spec decides the layers"),
    "hybrid": (f"{LOCAL} --hybrid-override-pattern M-M*", "--hybrid-override-pattern decides the layers"),
    "other attention": (
        f"{LOCAL} --experimental-attention-variant gated_delta_net",
        "--experimental-attention-variant decides the layers",
    ),
    "a fork's flag": (
        f"{LOCAL} --attention-gate-of-our-own",
        "--attention-gate-of-our-own is no flag of Megatron-LM's 0.16.1",
    ),
    "a checkpoint's flags": (f"{LOCAL} --use-checkpoint-args", "not all of its flags are known"),
    "no layers": (LOCAL.replace("--num-layers 4 ", ""), "what --num-layers means is not known"),
    "grouped experts": (
        f"{LOCAL} --num-experts 8 --moe-grouped-gemm",
        "--moe-grouped-gemm computes the experts without modules of their own",
    ),
    "legacy grouped experts": (
        LOCAL.replace("local", "transformer_engine --num-experts 8 --moe-grouped-gemm --moe-use-legacy-grouped-gemm"),
        "--moe-use-legacy-grouped-gemm computes the experts without modules of their own",
    ),
    "layers of another number": (
        f"{LOCAL} --num-experts 8 --moe-layer-freq [0]+[1]",
        "what --moe-layer-freq means is not known",
    ),
    "a program in a pattern": (
        f"{LOCAL} --num-experts 8 --moe-layer-freq sum([1])",
        "what --moe-layer-freq means is not known",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_no_guess(name):
    text, reason = UNKNOWN[name]
    assert outline(case(text)) == Unknown(reason)


def kinds(found: Outline | Unknown) -> list[str]:
    assert isinstance(found, Outline)
    return ["experts" if any("experts" in name for name in names) else "dense" for names in _by_layer(found)]


def _by_layer(found: Outline) -> list[list[str]]:
    return [
        [module.name for module in found.modules["linear"] if module.layer == number]
        for number in range(1, found.layers + 1)
    ]


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        ("2", ["experts", "dense", "experts", "dense"]),
        ("([0]*1+[1]*3)", ["dense", "experts", "experts", "experts"]),
        ("([1]*1+[0]*1)*2", ["experts", "dense", "experts", "dense"]),
        ("[0,0,0,1]", ["dense", "dense", "dense", "experts"]),
    ],
)
def test_which_layers_have_experts(frequency, expected):
    assert kinds(outline(case(f"{LOCAL} --num-experts 8 --moe-layer-freq {frequency}"))) == expected


def test_a_rank_has_its_own_experts():
    found = outline(case(f"{LOCAL} --num-experts 8 --expert-model-parallel-size 4"))
    assert isinstance(found, Outline)
    experts = [module.name for module in found.modules["linear"] if module.layer == 4 and "fc1" in module.name]
    assert experts == [f"decoder.layers.3.mlp.experts.local_experts.{number}.linear_fc1" for number in (0, 1)]


def test_all_depths_of_prediction_may_share_a_layer():
    found = outline(case(f"{LOCAL} --mtp-num-layers 3 --mtp-use-repeated-layer", "0.19.0"))
    assert isinstance(found, Outline)
    assert [module.name for module in found.modules["qk"] if module.layer is None] == [
        "mtp.layers.0.mtp_model_layer.self_attention.core_attention"
    ]


ALL_FILES = (*own_model.DENSE, *own_model.LATENT, *own_model.EXPERTS, *own_model.PREDICTION)


@pytest.mark.parametrize("release", daily(("0.12.3", "0.19.0"), RELEASES))
def test_a_release_builds_its_own_model(release, megatron_tree):
    assert own_model.strange(megatron_tree(release), "pretrain_gpt.py", ALL_FILES) is None


FORKS = {
    "a part of its own": (
        "megatron/core/transformer/attention.py",
        "self.linear_gate = build_module(submodules.linear_gate, config=config)",
        "attention.py of this tree builds linear_gate, which no release has",
    ),
    "a layer without a specification": (
        "megatron/core/transformer/mlp.py",
        "self.gate: Any = tensor_parallel.ColumnParallelLinear(4, 4)",
        "mlp.py of this tree builds gate, which no release has",
    ),
    "a model of its own": (
        "pretrain_gpt.py",
        "from our_models.gpt import GPTModel",
        "pretrain_gpt.py imports our_models",
    ),
    "an adaptor": ("pretrain_gpt.py", "import mindspeed.megatron_adaptor", "pretrain_gpt.py imports mindspeed"),
    "a builder of its own": ("gpt_builders.py", "import ours", "gpt_builders.py imports ours"),
}


@pytest.mark.parametrize("name", FORKS)
def test_a_fork_with_a_model_of_its_own_is_not_guessed_at(name, tmp_path):
    file, line, reason = FORKS[name]
    for other in {"pretrain_gpt.py", file}:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("from megatron.core import tensor_parallel\n")
    (tmp_path / file).write_text(f"class Part:\n    def __init__(self):\n        {line}\n")
    asked = Case(case(LOCAL).command, Setting("0.16.1", tmp_path))
    assert outline(asked) == Unknown(reason)


def test_depths_of_prediction_on_several_stages_have_the_names_of_one():
    text = f"{LOCAL} --mtp-num-layers 2 --pipeline-model-parallel-layout Et*4|m|mL"
    assert outline(case(text)) == Unknown("what --pipeline-model-parallel-layout means is not known")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--train-iters 1000", 1000),
        ("--train-samples 1050 --global-batch-size 100", 10),
        ("--train-samples 1000 --global-batch-size 100 --rampup-batch-size 10 10 500", None),
        ("--train-samples 1000", None),
        ("", None),
    ],
)
def test_how_long_a_training_is(flags, expected):
    assert steps(case(f"{LOCAL} {flags}")) == expected
