"""Scripts of different modes at the same time from one checkout: each proof shows its own formats.

Eight run under the marker `releases`. Three run always: as a job array where there is Slurm (test_slurm.py), else here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from quantctl.launch.scripts import script_path

from . import slurm
from .conftest import TINY, formats, smoke_environment

EIGHT = {
    "bf16": {},
    "FA_mxfp8": {"qk": ["mxfp8"]},
    "FA_linear_mxfp4": {"linear": ["mxfp4"], "qk": ["mxfp4"]},
    "FA_mxfp4": {"qk": ["mxfp4"]},
    "FA_hifp8": {"qk": ["hifp8"]},
    "linear_mxfp8": {"linear": ["mxfp8"]},
    "linear_hifp8": {"linear": ["hifp8"]},
    "FA_linear_hifp8": {"linear": ["hifp8"], "qk": ["hifp8"]},
}


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.releases)])
def test_each_proof_shows_its_own_formats(tmp_path, count):
    if count == 3 and slurm.missing() is None:
        pytest.skip("the job array of test_slurm.py shows it")
    runs = {}
    for mode in list(EIGHT)[:count]:
        script = script_path("llama32-1b", "wikipedia", mode)
        environment = smoke_environment(tmp_path / mode)
        with (tmp_path / f"{mode}.txt").open("w") as out:
            command = ["bash", str(script), "--", *TINY]
            runs[mode] = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT)
    statuses = {mode: run.wait() for mode, run in runs.items()}
    assert statuses == dict.fromkeys(runs, 0), "\n".join(path.read_text() for path in Path(tmp_path).glob("*.txt"))
    assert {mode: formats(tmp_path / mode) for mode in runs} == {mode: EIGHT[mode] for mode in runs}
