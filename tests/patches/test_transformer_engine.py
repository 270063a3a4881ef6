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


KINDS = ("transformer_engine", "local")


@pytest.mark.parametrize(("release", "version"), PAIRS)
def test_layers(patched, release, version):
    """Outputs, biases and all gradients equal the local layers' in every bit on two ranks, tensor and sequence
    parallel: column, row and norm layers, biases applied and handed back, bf16, main_grad, frozen weights."""
    found = on_bed("te_layers.py", version, str(patched(release)), "2")
    assert len(found) == 80
    assert not [(line["case"], line["rank"]) for line in found if line["unequal"]]
    assert all(line["hits"]["linear"]["mxfp8"]["fprop"] == 2 for line in found)
