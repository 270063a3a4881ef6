"""Megatron-LM's own pretrain_gpt.py, from the smoke scripts' first step to their proof, a CPU in the place of a GPU.

Opt-in, minutes a run: QUANTCTL_MEGATRON_CHECKOUTS names checkouts as PATH does, and the Python that runs this has what
the trainer needs (transformers, six, pybind11). The command is the one that the script prints on a machine with GPUs;
tests/support/cpu_as_cuda stands in front of the ranks.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quantctl.script
from quantctl.report.sources import load
from quantctl.spec import SITES
from quantctl.sweep.demo import DATASET, MODEL, MODES

from .conftest import read, smoke_environment

SHIM = Path(__file__).parents[1] / "support" / "cpu_as_cuda"
CHECKOUTS = [Path(path) for path in os.environ.get("QUANTCTL_MEGATRON_CHECKOUTS", "").split(os.pathsep) if path]
SCRIPTS = Path(quantctl.script.__file__).parent / MODEL
LAYERS = 4


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Function from a checkout to a copy of it."""
    if missing := [name for name in ("transformers", "six", "pybind11") if not importlib.util.find_spec(name)]:
        pytest.skip(f"{sys.executable} has no {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("checkouts")

    def copy(path: Path) -> Path:
        target = folder / path.name
        if not target.exists():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns(".git"), symlinks=True)
        return target

    return copy


@pytest.mark.skipif(not CHECKOUTS, reason="QUANTCTL_MEGATRON_CHECKOUTS names no checkout")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", CHECKOUTS or [None], ids=lambda path: path.name if path else "none")
def test_the_default_smoke_run(checkout, path, mode, tmp_path):
    subprocess.run([sys.executable, "-m", "quantctl.data.corpus"], check=True, stdout=subprocess.DEVNULL)
    environment = smoke_environment(tmp_path / "run", PLATFORM="cuda", PYTHON=sys.executable)
    del environment["TRAIN_ITERS"]
    environment |= {
        "QUANTCTL": str(Path(sys.executable).with_name("quantctl")),
        "MEGATRON_LM_PATH": str(checkout(path)),
    }
    script = ["bash", SCRIPTS / f"pretrain_{MODEL}_{DATASET}_{mode}.sh"]
    printed = subprocess.run(script, env={**environment, "DRY_RUN": "1"}, check=True, capture_output=True, text=True)
    environment["PYTHONPATH"] = str(SHIM)
    done = subprocess.run(["bash", "-c", printed.stdout], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    run = load(tmp_path / "run")
    assert run.is_clean, run.marks
    assert (run.mode, run.curve.last, run.recipe["train-iters"]) == (mode, 200, "200")
    assert run.final_loss < run.losses[10] - 1
    assert [iteration for iteration, _ in run.validation][-1] == 200
    proof = read(tmp_path / "run/proof.json")
    asked = {site: spec for site, spec in run.selectors.items() if site in SITES and spec != "none"}
    assert {site: list(specs) for site, specs in proof["calls"].items() if site in SITES} == {
        site: [spec] for site, spec in asked.items()
    }
    # four projections a layer; the backward passes are those of the training steps
    calls = {"linear": 4 * LAYERS, "qk": LAYERS}
    for site, spec in asked.items():
        assert proof["calls"][site][spec]["dgrad"] == 200 * calls[site], site
