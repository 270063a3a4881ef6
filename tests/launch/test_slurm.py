"""The scripts under a real Slurm: two nodes, an array, a requeue, a finished run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TINY, formats, read, smoke_environment

MODEL = ("--model", "llama32-1b", "--dataset", "dolma")


@pytest.fixture
def submit(slurm, tmp_path):
    """Runs `quantctl run --launcher slurm` in an empty directory; returns the job's id."""

    def run(modes: str, *options: str, megatron: tuple[str, ...] = (), **changes: str) -> str:
        environment = smoke_environment(**changes) | {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
        environment["PATH"] += ":/usr/sbin:/sbin"
        command = [sys.executable, "-m", "quantctl.cli", "run", *MODEL, "--quantization", modes, "--launcher", "slurm"]
        done = subprocess.run(
            [*command, "--sbatch=--time=10", *options, "--", *TINY, *megatron],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return re.fullmatch(r"Submitted batch job (\d+)\n", done.stdout).group(1)

    return run


def ended(slurm, job: str) -> bool:
    states = re.findall(r"JobState=(\w+)", slurm.call("scontrol", "show", "job", job))
    return all(state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") for state in states)


def text(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.out")))


@pytest.mark.releases
def test_two_ranks_on_two_nodes_and_a_finished_run_is_skipped(slurm, submit, tmp_path):
    parallel = ("--tensor-model-parallel-size", "2")
    job = submit("FA_linear_mxfp8", "--sbatch=--nodes=2", megatron=parallel)
    slurm.until(lambda: ended(slurm, job))
    assert slurm.state(job)["JobState"] == "COMPLETED", text(tmp_path)
    run = tmp_path / "runs" / "llama32-1b_dolma_FA_linear_mxfp8_smoke"
    proof, (attempt,) = read(run / "proof.json"), read(run / "manifest.json")["attempts"]
    assert formats(run) == {"linear": ["mxfp8"], "qk": ["mxfp8"]}
    assert proof["ranks"] == [0, 1]
    assert attempt["finished"]
    asked = " ".join(attempt["asked"])
    assert f"--nnodes 2 --node-rank 0 --master-addr {slurm.host} --master-port {10000 + int(job)}" in asked
    assert "iteration        2/       2" in (run / "log.txt").read_text() + (run / "log-node1.txt").read_text()

    again = submit("FA_linear_mxfp8", "--sbatch=--nodes=2", megatron=parallel)
    slurm.until(lambda: ended(slurm, again))
    assert slurm.state(again)["JobState"] == "COMPLETED", text(tmp_path)
    assert "finished and proved: nothing to do" in text(tmp_path)
    assert len(read(run / "manifest.json")["attempts"]) == 1


def test_a_partition_without_gpus_is_explained(submit):
    with pytest.raises(AssertionError, match=r"sbatch took no job: .*\n.*--platform cpu"):
        submit("bf16", PLATFORM="cuda")


@pytest.mark.releases
def test_an_array_trains_several_modes_at_once(slurm, submit, tmp_path):
    expected = {
        "bf16": {},
        "FA_mxfp4": {"qk": ["mxfp4"]},
        "FA_linear_hifp8": {"linear": ["hifp8"], "qk": ["hifp8"]},
    }
    job = submit(",".join(expected))
    slurm.until(lambda: len(slurm.call("squeue", "-h", "-t", "RUNNING").splitlines()) == 3)
    print(slurm.call("squeue"))
    slurm.until(lambda: ended(slurm, job))
    for mode, sites in expected.items():
        run = tmp_path / "runs" / f"llama32-1b_dolma_{mode}_smoke"
        assert formats(run) == sites, text(tmp_path)
    assert len(list(tmp_path.glob("llama32-1b_3_modes-*.out"))) == 3


def test_a_signal_saves_requeues_and_the_run_goes_on(slurm, submit, tmp_path):
    run = tmp_path / "runs" / "llama32-1b_dolma_linear_mxfp8_smoke"
    job = submit("linear_mxfp8", CHECKPOINT_PATH=str(tmp_path / "checkpoints"), TRAIN_ITERS="150")

    def trains() -> bool:
        return (run / "log.txt").exists() and " iteration        3/" in (run / "log.txt").read_text()

    slurm.until(trains)
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    slurm.until(lambda: slurm.state(job)["Restarts"] == "1")
    # until the first attempt's credential has run out (two minutes, here eight seconds) the job is held back
    print(slurm.call("squeue"))
    slurm.until(lambda: ended(slurm, job))
    assert slurm.state(job)["JobState"] == "COMPLETED", f"{slurm.state(job)}\n{text(tmp_path)}"
    assert "stopped by SIGUSR1, checkpoint saved" in text(tmp_path)
    first, second = read(run / "manifest.json")["attempts"]
    assert (first["exit_status"], first["stopped_early"], first["finished"]) == (0, True, False)
    assert (second["exit_status"], second["stopped_early"], second["finished"]) == (0, False, True)
    seen = [int(number) for number in re.findall(r"iteration +(\d+)/ +150 ", (run / "log.txt").read_text())]
    assert seen == list(range(1, 151)), "every iteration once: none lost, none repeated"
