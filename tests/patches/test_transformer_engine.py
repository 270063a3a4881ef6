"""Transformer Engine's layers under the selectors, on a CPU: its real modules, and a stand-in for what is compiled.

What is claimed of them here is claimed of Megatron's and quantctl's code around Transformer Engine's kernels, not of
these kernels. The releases and Transformer Engine's versions beside the daily ones run with `make releases`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import te_wheels

from quantctl.lint.case import Case, Setting
from quantctl.lint.command import find
from quantctl.lint.outline import outline

SUPPORT = Path(te_wheels.__file__).parent
ALL = {"linear": "mxfp8", "lm_head": "mxfp4", "qk": "mxfp8", "pv": "mxfp8"}
PAIRS = [
    ("0.16.1", te_wheels.COMMON),
    *(
        pytest.param(release, version, marks=pytest.mark.releases)
        for release, version in (
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
    ),
]
"""Of Megatron and Transformer Engine."""


def on_bed(script: str, version: str, *arguments: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(SUPPORT / script), *arguments],
        env=te_wheels.environment(version),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def models(version: str, *asked: dict) -> list[dict]:
    return on_bed("te_models.py", version, json.dumps(asked))


@pytest.mark.parametrize(("release", "version"), PAIRS)
def test_models(megatron_tree, patched, release, version):
    """With every selector none a model is the unpatched tree's in every bit; with formats its losses are those of the
    local layers with the same weights, and so are its counts, module by module."""
    stock, tree = str(megatron_tree(release)), str(patched(release))
    # up to 0.11 Megatron's YaRN computes for 163,840 positions only; see also the many models of `make releases`
    cases = ["dense", "latent", "experts"] if version == te_wheels.COMMON else ["bias", "latent", "prediction"]
    cases = [case for case in cases if (release, case) not in {("0.10.0", "latent"), ("0.11.0", "latent")}]
    found = models(
        version,
        *({"tree": stock, "case": case} for case in cases),
        *({"tree": tree, "case": case} for case in cases),
        *({"tree": tree, "case": case, "layers": kind, **ALL} for case in cases for kind in KINDS),
    )
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


FLAGS = {
    "dense": "",
    "bias": "",
    "latent": "--multi-latent-attention --q-lora-rank 24",
    "experts": "--num-experts 4 --moe-grouped-gemm --moe-shared-expert-intermediate-size 64",
    "prediction": "--mtp-num-layers 1",
}
"""By case, the flags that decide which modules it has; those of te_models.py are the same as a configuration."""


def foreseen(case: str, release: str) -> set[str]:
    """The modules that a command has by its flags."""
    command = find(f"pretrain_gpt.py --num-layers 2 --hidden-size 64 {FLAGS[case]}".split())
    found = outline(Case(command, Setting(NEAREST.get(release, release))))
    return {module.name for modules in found.modules.values() for module in modules}


NEAREST = {"0.10.0": "0.12.3", "0.11.0": "0.12.3", "0.12.0": "0.12.3", "0.19.2": "0.19.0"}
"""Releases without a table of flags, and one whose flags they have."""

KINDS = ("transformer_engine", "local")


@pytest.mark.parametrize(("release", "version"), PAIRS)
def test_layers(patched, release, version):
    """Outputs, biases and all gradients equal the local layers' in every bit on two ranks, tensor and sequence
    parallel: column, row and norm layers, biases applied and handed back, bf16, main_grad, frozen weights."""
    found = on_bed("te_layers.py", version, str(patched(release)), "2")
    assert len(found) == 80
    assert not [(line["case"], line["rank"]) for line in found if line["unequal"]]
    assert all(line["hits"]["linear"]["mxfp8"]["fprop"] == 2 for line in found)


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
    "fused MLP": ({"fused_mlp": True}, "decoder.layers.0.mlp is a TEFusedMLP, whose products Transformer Engine"),
}
"""Together with `linear`."""
NOT_ATTENDED = {
    "window": ({"window_size": [8, 0]}, None, "a sliding window"),
    "sinks": ({"softmax_type": "learnable"}, None, "attention sinks"),
    "context parallel": ({"context_parallel_size": 2}, None, "context parallelism"),
    "largest logit": ({"qk_clip": True}, None, "the largest attention logit"),
    "own fp8": ({"fp8": "hybrid", "fp8_dot_product_attention": True}, None, "Transformer Engine's own FP8 attention"),
    "packed": ({}, "packed_seq_params", "packed sequences"),
    "bias": ({}, "attention_bias", "an attention bias"),
    "mask": ({}, "padding_causal", "the mask type padding_causal"),
}
"""Together with `qk`."""


def test_what_both_ask_for_is_refused_and_what_one_asks_for_is_not(patched):
    tree = {"tree": str(patched("0.16.1")), "case": "dense"}
    served = {"linear": "mxfp8; linear_fc2: none"}, {"linear": "none", "qk": "mxfp8"}
    found = models(
        te_wheels.COMMON,
        *({**tree, "linear": "mxfp8", "config": config} for config, _ in REFUSED.values()),
        *({**tree, "qk": "mxfp8", "config": config, "call": call} for config, call, _ in NOT_ATTENDED.values()),
        *({**tree, **values, "config": {"quant_recipe": PRECISION}} for values in served),
    )
    wanted = [words for _, words in REFUSED.values()] + [words for *_, words in NOT_ATTENDED.values()]
    for name, model, words in zip((*REFUSED, *NOT_ATTENDED), found, wanted, strict=False):
        assert words in model["error"], name
        assert "; or set " in model["error"], name  # the way out
    both, attention = found[len(wanted) :]
    assert not both["modules"][FC2]["linear"]["calls"].keys() - {"none"}
    assert both["modules"][FC2.replace("fc2", "fc1")]["linear"]["calls"]["mxfp8"]
    assert attention["hits"].keys() == {"qk"}
