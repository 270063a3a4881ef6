"""Transformer Engine's layers under the selectors, on a CPU: its real modules, and a stand-in for what is compiled.

What is claimed of them here is claimed of Megatron's and quantctl's code around Transformer Engine's kernels, not of
these kernels. One release and one version of Transformer Engine run daily, the others with `make releases`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import te_wheels
from warm_python import python

from quantctl.lint.case import Case, Setting
from quantctl.lint.command import find
from quantctl.lint.outline import outline
from quantctl.lint.rules.te_not_ruled import ATTENTION, LINEAR
from quantctl.spec.recipes import RECIPES
from quantctl.tree.state import plan, read_state

SUPPORT = Path(te_wheels.__file__).parent
KINDS = ("transformer_engine", "local")
ALL = {"linear": "mxfp8", "lm_head": "mxfp4", "qk": "mxfp8", "pv": "mxfp8"}
DAILY = ("0.16.1", te_wheels.COMMON)
OTHERS = (
    ("0.10.0", te_wheels.OLDEST),
    ("0.11.0", te_wheels.OLDEST),
    ("0.12.0", te_wheels.COMMON),
    ("0.12.3", te_wheels.OLDEST),
    ("0.13.1", te_wheels.COMMON),
    ("0.14.0", te_wheels.NEWEST),
    ("0.15.3", te_wheels.COMMON),
    ("0.16.1", te_wheels.OLDEST),
    ("0.16.1", te_wheels.NEWEST),
    ("0.17.1", te_wheels.NEWEST),
    ("0.18.2", te_wheels.NEWEST),
    ("0.19.2", te_wheels.NEWEST),
    ("main", te_wheels.NEWEST),
)
"""Of Megatron and Transformer Engine."""
PAIRS = [DAILY, *(pytest.param(*pair, marks=pytest.mark.releases) for pair in OTHERS)]
FLAGS = {
    "dense": "",
    "bias": "",
    "latent": "--multi-latent-attention --q-lora-rank 24",
    "experts": "--num-experts 4 --moe-grouped-gemm --moe-shared-expert-intermediate-size 64",
    "prediction": "--mtp-num-layers 1",
}
"""By case of te_models.py, the flags that decide which modules its model has."""
DAILY_CASES = ("dense", "latent", "experts")
NEAREST = {"0.10.0": "0.12.3", "0.11.0": "0.12.3", "0.12.0": "0.12.3", "0.19.2": "0.19.0"}
"""Releases without a table of flags, and one whose flags they have."""


def on_bed(script: str, version: str, *arguments: str) -> list[dict]:
    done = python(SUPPORT / script, *arguments, env=te_wheels.environment(version))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def patched_copy(stock: Path, target: Path) -> Path:
    shutil.copytree(stock, target, ignore=shutil.ignore_patterns(".git"))
    for file, raw in plan(read_state(target), {}).items():
        (target / file).write_bytes(raw)
    return target


def comparisons(stock: Path, tree: Path, cases: list[str]) -> list[dict]:
    """For each case: the unpatched tree's model, the patched one's with every selector none, both kinds of layers."""
    return [
        *({"tree": str(stock), "case": case} for case in cases),
        *({"tree": str(tree), "case": case} for case in cases),
        *({"tree": str(tree), "case": case, "layers": kind, **ALL} for case in cases for kind in KINDS),
    ]


PRECISION = {
    "configs": {"plain": {"transformer_engine_config_type": "TEQuantizationParams", "training_recipe": {}}},
    "matchers": {"fc2": {"config": "plain", "type": "glob", "pattern": "*linear_fc2", "enabled": True}},
}
"""What Megatron reads of a --te-precision-config-file."""
FC2 = "decoder.layers.0.mlp.linear_fc2"
REFUSED = {
    "fp8": ({"fp8": "hybrid"}, "--fp8-format hybrid --fp8-recipe delayed has Transformer Engine quantize the same"),
    "fp4": ({"fp4": "e2m1", "bf16": True}, "--fp4-format e2m1 --fp4-recipe nvfp4 has Transformer Engine quantize"),
    "precision file": ({"quant_recipe": PRECISION}, f"{FC2}: Megatron's per-module precision file speaks of the same"),
    "delayed wgrad": ({"delay_wgrad_compute": True}, "--delay-wgrad-compute computes weight gradients outside"),
    "overlap": ({"tp_comm_overlap": True}, "--tp-comm-overlap cuts the products into pieces"),
    "all-reduce": ({"symmetric_ar_type": "two_shot"}, "--symmetric-ar-type has Transformer Engine reduce"),
    "fused MLP": ({"fused_mlp": True}, "drop --use-transformer-engine-op-fuser"),
}
"""Together with `linear`."""
NOT_ATTENDED = {
    "window": ({"window_size": [8, 0]}, None, "a sliding window", "--window-size"),
    "sinks": ({"softmax_type": "learnable"}, None, "attention sinks", "--softmax-type"),
    "context parallel": ({"context_parallel_size": 2}, None, "context parallelism", "--context-parallel-size"),
    "largest logit": ({"qk_clip": True}, None, "the largest attention logit", "--qk-clip, --log-max-attention-logit"),
    "own fp8": (
        {"fp8": "hybrid", "fp8_dot_product_attention": True},
        None,
        "Transformer Engine's own FP8 attention",
        "--fp8-dot-product-attention and --fp8-multi-head-attention",
    ),
    "packed": ({}, "packed_seq_params", "packed sequences", ""),
    "bias": ({}, "attention_bias", "an attention bias", ""),
    "mask": ({}, "padding_causal", "the mask type padding_causal", ""),
}
"""Together with `qk`."""
SERVED = ({"linear": "mxfp8; linear_fc2: none"}, {"linear": "none", "qk": "mxfp8"})
"""Beside that precision file."""


BYPASSED = "mlp.linear_fc2"
"""A layer of which te.pytorch's forward takes the place."""


RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def singles(tree: Path) -> list[dict]:
    model = {"tree": str(tree), "case": "dense"}
    return [
        *({**model, "linear": RECIPES["te-nvfp4"].linear, "layers": kind} for kind in KINDS),
        *({**model, "linear": "mxfp8", "config": config} for config, _ in REFUSED.values()),
        *({**model, "qk": "mxfp8", "config": config, "call": call} for config, call, *_ in NOT_ATTENDED.values()),
        *({**model, **values, "config": {"quant_recipe": PRECISION}} for values in SERVED),
        {**model, "linear": "mxfp8", "call": BYPASSED},
        {**model, **ALL, "config": RECOMPUTED},
        {**model, **ALL, "save": f"{tree}.quantized"},
        {**model, "load": f"{tree}.quantized", "save": f"{tree}.stock"},
        {**model, **ALL, "load": f"{tree}.stock"},
    ]


@pytest.fixture(scope="module")
def daily_models(megatron_tree, tmp_path_factory) -> tuple[list[dict], list[dict]]:
    """What the comparisons and the other models of the daily pair have found, in one process."""
    release, version = DAILY
    stock = megatron_tree(release)
    tree = patched_copy(stock, tmp_path_factory.mktemp("patched") / release)
    compared = comparisons(stock, tree, [*DAILY_CASES])
    found = on_bed("te_models.py", version, json.dumps([*compared, *singles(tree)]))
    return found[: len(compared)], found[len(compared) :]


def hold(release: str, cases: list[str], found: list[dict]) -> None:
    for number, case in enumerate(cases):
        before, none = found[number], found[len(cases) + number]
        te, local = found[2 * (len(cases) + number) :][:2]
        assert not [model["error"] for model in (before, none, te, local) if "error" in model], case
        assert not any(model["quantctl"] for model in (before, none)), case
        for name in ("losses", "parameters", "state"):
            assert none[name] == before[name], (case, name)
        assert te["state"] == before["state"], case
        assert te["losses"][0] == local["losses"][0] != none["losses"][0], case
        # later ones grow apart by the last bits of the norms' gradients, which two kinds of norms compute
        assert float.fromhex(te["losses"][1]) == pytest.approx(float.fromhex(local["losses"][1]), abs=1e-5), case
        assert te["hits"] == local["hits"], case
        assert not any(seen["bypassed"] for seen in te["coverage"].values()), case
        assert all(seen["calls"] for sites in te["modules"].values() for seen in sites.values()), case
        assert te["modules"].keys() == foreseen(case, release), case


def foreseen(case: str, release: str) -> set[str]:
    """The modules that a command has by its flags."""
    command = find(f"pretrain_gpt.py --num-layers 2 --hidden-size 64 {FLAGS[case]}".split())
    found = outline(Case(command, Setting(NEAREST.get(release, release))))
    return {module.name for modules in found.modules.values() for module in modules}


def test_models(daily_models):
    """With every selector none a model is the unpatched tree's in every bit; with formats its losses are those of the
    local layers with the same weights, and so are its counts, module by module; its modules are foreseen."""
    hold(DAILY[0], [*DAILY_CASES], daily_models[0])


@pytest.mark.releases
@pytest.mark.parametrize(("release", "version"), OTHERS)
def test_models_of_each_release(megatron_tree, tmp_path, release, version):
    # up to 0.11 Megatron's YaRN computes for 163,840 positions only, and there is no multi-token prediction
    lacking = ("latent", "prediction") if release in ("0.10.0", "0.11.0") else ()
    cases = [case for case in FLAGS if case not in lacking]
    stock = megatron_tree(release)
    asked = comparisons(stock, patched_copy(stock, tmp_path / release), cases)
    hold(release, cases, on_bed("te_models.py", version, json.dumps(asked)))


def test_what_both_ask_for_is_refused_and_what_one_asks_for_is_not(daily_models):
    found = daily_models[1][len(KINDS) :]
    wanted = [words for _, words in REFUSED.values()] + [words for _, _, words, _ in NOT_ATTENDED.values()]
    for name, model, words in zip((*REFUSED, *NOT_ATTENDED), found, wanted, strict=False):
        assert words in model["error"], name
        assert "; or set " in model["error"], name  # the way out
    both, attention = found[len(wanted) :][:2]
    assert not both["modules"][FC2]["linear"]["calls"].keys() - {"none"}
    assert both["modules"][FC2.replace("fc2", "fc1")]["linear"]["calls"]["mxfp8"]
    assert attention["hits"].keys() == {"qk"}


def test_a_recipe_computes_what_it_does_in_local_layers(daily_models):
    """Squares, a transform, and noise that both kinds of layers draw in one order."""
    te, local = daily_models[1][: len(KINDS)]
    assert te["losses"] == local["losses"]
    assert te["hits"] == local["hits"]


def test_recomputed_activations_change_nothing(daily_models):
    compared, (*_, recomputed, again, _, _) = daily_models
    for name in ("losses", "parameters"):
        assert recomputed[name] == again[name]
    assert again["losses"] == compared[2 * len(DAILY_CASES)]["losses"]


def test_checkpoints_with_a_format_and_without_are_one_kind(daily_models):
    *_, quantized, stock, once_more = daily_models[1]
    losses = [float.fromhex(model["losses"][0]) for model in (quantized, stock, once_more)]
    assert losses == sorted(losses, reverse=True)  # each goes on from the one before


def test_lint_knows_the_flags_that_are_refused():
    said = " ".join([words for _, words in REFUSED.values()] + [flags for *_, flags in NOT_ATTENDED.values()])
    assert all(flag in said for flag in (*LINEAR, *ATTENTION))


@pytest.mark.parametrize(("release", "version"), PAIRS)
def test_layers(megatron_tree, tmp_path, release, version):
    """Outputs, biases and all gradients equal the local layers' in every bit on two ranks, tensor and sequence
    parallel: column, row and norm layers, biases applied and handed back, bf16, main_grad, frozen weights."""
    tree = patched_copy(megatron_tree(release), tmp_path / release)
    found = on_bed("te_layers.py", version, str(tree), "2")
    assert len(found) == 80
    assert not [(line["case"], line["rank"]) for line in found if line["unequal"]]
    assert all(line["calls"]["linear"]["mxfp8"]["fprop"] == 2 for line in found)


@pytest.mark.releases
def test_experts_in_one_layer(megatron_tree, tmp_path):
    tree = patched_copy(megatron_tree(DAILY[0]), tmp_path / "tree")
    found = on_bed("te_layers.py", te_wheels.NEWEST, str(tree), "1")
    assert not [line["case"] for line in found if line["unequal"]]
    assert {"grouped", "grouped, fused"} <= {line["case"] for line in found}


PROGRAM = """
import te_models
te_models.start()
model = te_models.build("dense")
{change}
print(te_models.train(model)["losses"])
"""
BYPASS = f"te_models.bypass(model, {BYPASSED!r})"


@pytest.fixture
def run(quantctl, megatron_tree, tmp_path):
    """Function from what is done to the model to how `quantctl exec` ended, and its proof."""

    def start(change: str):
        program = tmp_path / "pretrain_gpt.py"
        program.write_text(PROGRAM.format(change=change))
        command = [sys.executable, program, "--num-layers", 2, "--hidden-size", 64]
        options = ["exec", "--mode", "FA_linear_mxfp8", "--run-dir", tmp_path / "run"]
        environment = te_wheels.environment(te_wheels.COMMON)
        done = quantctl("--megatron", megatron_tree(DAILY[0]), *options, "--", *command, env=environment)
        return done, json.loads((tmp_path / "run" / "proof.json").read_text())

    return start


def test_a_run_of_transformer_engines_layers_is_proved(run):
    done, proof = run("")
    assert (done.status, proof["ok"]) == (0, True), done.err
    assert proof["calls"]["linear"] == {"mxfp8": dict.fromkeys(("fprop", "dgrad", "wgrad"), 2 * 8)}
    assert proof["calls"]["qk"] == {"mxfp8": dict.fromkeys(("fprop", "dgrad", "wgrad"), 2 * 2)}
    assert proof["by_module"].keys() == foreseen("dense", DAILY[0]) - {"output_layer"}


@pytest.mark.releases
def test_a_layer_that_nothing_rules_fails_the_proof(run):
    done, proof = run(BYPASS)
    assert (done.status, proof["ok"]) == (1, False)
    assert "2 of 8 modules went another way: decoder.layers.0-1.mlp.linear_fc2" in done.err


def test_a_layer_that_nothing_rules_is_known_by_name(daily_models):
    model = daily_models[1][-5]
    assert model["coverage"]["linear"]["bypassed"] == [FC2, FC2.replace(".0.", ".1.")]
