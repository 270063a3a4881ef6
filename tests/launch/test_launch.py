"""`quantctl launch`: what it starts, what it does not start, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from quantctl.cli import cli
from quantctl.launch.scripts import script_path
from quantctl.modes import SCRIPT_MODES
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS

TRAINER = ["-m", "quantctl.pretrain", "--train-iters", "10"]
STARTED = 7


@pytest.fixture
def launch(tmp_path):
    """`quantctl launch` with a QUANTCTL whose exec ends with status 7 and whose lint with LINT_STATUS."""
    stand_in = tmp_path / "quantctl"
    stand_in.write_text(f'#!/bin/sh\n[ "$1" = lint ] && exit ${{LINT_STATUS:-0}}\nexit {STARTED}\n')
    stand_in.chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return subprocess.run(
            [sys.executable, "-m", "quantctl.cli", "launch", "--run-dir", "run", *arguments],
            cwd=tmp_path,
            env=kept | {"QUANTCTL": str(stand_in)} | environment,
            capture_output=True,
            text=True,
        )

    return run


def manifest(folder: Path, **attempt: object) -> None:
    finished = {"asked": ["python", *TRAINER], "finished": True}
    (folder / "run").mkdir()
    data = {"selectors": {"linear": "mxfp8", "qk": "none"}, "attempts": [finished | attempt]}
    (folder / "run" / "manifest.json").write_text(json.dumps(data))


AGAIN = {
    "the same": (["--linear", "mxfp8"], TRAINER, {}, {}, 0),
    "the same in other words": (["--linear", "mxfp8:scale=rceil"], TRAINER, {}, {}, 0),
    "forced": (["--linear", "mxfp8"], TRAINER, {}, {"FORCE": "1"}, STARTED),
    "more iterations, forced": (["--linear", "mxfp8"], [*TRAINER[:-1], "20"], {}, {"FORCE": "1"}, STARTED),
    "stopped early": (["--linear", "mxfp8"], TRAINER, {"finished": False}, {}, STARTED),
    "killed": (["--linear", "mxfp8"], TRAINER, {"finished": None}, {}, STARTED),
}


@pytest.mark.parametrize(("selectors", "trainer", "attempt", "environment", "status"), AGAIN.values(), ids=AGAIN)
def test_a_finished_run_is_not_started_again(launch, tmp_path, selectors, trainer, attempt, environment, status):
    manifest(tmp_path, **attempt)
    done = launch(*selectors, "--", *trainer, **environment)
    assert done.returncode == status, done.stderr
    assert ("nothing to do" in done.stderr) == (status == 0)


OURS = ["python", "-m", "torch.distributed.run", "--master-port", "1", *TRAINER, "--lr", "1", "--tensorboard-dir", "a"]
UNKNOWN = ["-m", "torch.distributed.run", "--master-port", "1", "-m", "mine", "--lr", "1"]
OTHERS = {
    "another seed": (["--linear", "mxfp8"], [*TRAINER, "--lr", "1", "--seed", "2"], OURS, "--seed 2 against 1234"),
    "another rate": (["--linear", "mxfp8"], [*TRAINER, "--lr", "2"], OURS, "--lr 2 against 1"),
    "more iterations": (["--linear", "mxfp8"], [*TRAINER[:-1], "20", "--lr", "1"], OURS, "--train-iters 20 against 10"),
    "another format": (["--linear", "mxfp4"], [*TRAINER, "--lr", "1"], OURS, "linear mxfp4 against mxfp8"),
    "many": (["--linear", "mxfp8"], [*TRAINER, *(f"--{x}=1" for x in "abcd")], OURS, " and 2 more"),
    "the same, elsewhere": (["--linear", "mxfp8"], [*TRAINER, "--lr", "1"], OURS, None),
    "the same, fused where it can be": (["--attention", "auto"], [*TRAINER, "--lr", "1"], OURS, None),
    "the same of an unknown trainer": (["--linear", "mxfp8"], ["-m", "mine", "--lr", "1"], UNKNOWN, None),
}


def test_a_flag_may_be_corrected_where_nothing_was_trained_yet(launch, tmp_path):
    manifest(tmp_path, asked=OURS, finished=False)
    assert launch("--linear", "mxfp8", "--", *TRAINER, "--lr", "2").returncode == STARTED


@pytest.mark.parametrize(("selectors", "trainer", "asked", "difference"), OTHERS.values(), ids=OTHERS)
def test_another_experiment_is_refused_where_one_lies(launch, tmp_path, selectors, trainer, asked, difference):
    manifest(tmp_path, asked=asked, finished=False)
    (tmp_path / "run" / "log.txt").write_text(" iteration        1/      10 | lm loss: 7.0E+00 |\n")
    done = launch(*selectors, "--", *trainer)
    assert done.returncode == (STARTED if difference is None else 2), done.stderr
    if difference:
        assert f"run holds another run: {difference}" in done.stderr or done.stderr.count(difference) == 1
        assert "another RUN_DIR (and CHECKPOINT_PATH) starts afresh" in done.stderr
        # exec refuses other formats whatever FORCE says
        assert ("FORCE=1 goes on" in done.stderr) == ("linear" not in difference)


def test_a_directory_with_no_attempt_yet_is_nobodys(launch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"selectors": {"linear": "mxfp8"}, "attempts": []}')
    assert launch("--linear", "mxfp8", "--", *TRAINER).returncode == STARTED


STARTERS = {
    "-m quantctl.pretrain": False,
    "-m quantctl.launch.mindspeed x/pretrain_gpt.py": True,
    "x/pretrain_gpt.py": True,
}


@pytest.mark.parametrize(("trainer", "torchrun"), STARTERS.items(), ids=STARTERS)
def test_only_the_embedded_trainer_starts_alone(launch, trainer, torchrun):
    done = launch("--mode", "bf16", "--dry-run", "--", *trainer.split(), "--train-iters", "10")
    assert ("torch.distributed.run" in done.stdout) == torchrun


LINT = {
    "clean": ({}, STARTED),
    "errors": ({"LINT_STATUS": "1"}, 2),
    "errors, told to go on": ({"LINT_STATUS": "1", "LINT": "0"}, STARTED),
}


@pytest.mark.parametrize(("environment", "status"), LINT.values(), ids=LINT)
def test_lint_comes_first(launch, environment, status):
    done = launch("--mode", "bf16", "--", *TRAINER, **environment)
    assert done.returncode == status
    assert ("LINT=0 starts it all the same" in done.stderr) == (status == 2)


REFUSED = {
    "no decimal number": ({"NNODES": "²"}, "NNODES=² is not a number from 1 up"),
    "no host names": ({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, "no SLURM_JOB_NODELIST"),
    "an odd WORLD_SIZE": ({"NNODES": "two", "WORLD_SIZE": "x"}, "NNODES=two is not a number"),
    "no number": ({"NNODES": "two"}, "NNODES=two is not a number from 1 up"),
    "no address": ({"NNODES": "2"}, "NNODES=2 and no MASTER_ADDR"),
    "rank too high": ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2 of NNODES=2"),
    "no port": ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536 is not a number from 1 to 65535"),
    "a task a GPU": (
        {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "8"},
        "srun started 8 tasks on 1 nodes",
    ),
}


@pytest.mark.parametrize(("environment", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(launch, environment, message):
    done = launch("--mode", "bf16", "--", *TRAINER, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("word", ["A", "=b"])
def test_a_variable_has_a_name_and_a_value(launch, word):
    done = launch("--mode", "bf16", "--env", word, "--", *TRAINER)
    assert (done.returncode, f"--env {word}: which variable" in done.stderr) == (2, True)


@pytest.mark.parametrize("text", ["", "[]", '{"selectors": {', '{"selectors": {}}'])
def test_a_damaged_manifest_is_named(launch, tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(text)
    done = launch("--mode", "bf16", "--", *TRAINER)
    assert (done.returncode, "manifest.json: " in done.stderr) == (2, True)


def test_in_a_batch_job_of_several_nodes_it_starts_itself_on_each(launch, tmp_path):
    """scontrol is a stand-in here; test_slurm.py has the real one."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'gpu03\\ngpu04\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "20123", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[03-04]"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    arguments = ["--mode", "bf16", "--processes", "4", "--dry-run", "--", *TRAINER]
    batch = launch(*arguments, SLURMD_NODENAME="gpu03", **job, **path).stdout.replace(" \\\n    ", " ")
    assert batch.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpu-bind=none --export=ALL --kill-on-bad")
    assert "quantctl.cli launch --run-dir run --mode bf16 --processes 4 -- -m quantctl.pretrain" in batch
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1"}
    node = launch(*arguments, SLURM_STEP_NODELIST="gpu[03-04]", **step, **job, **path).stdout.replace(" \\\n    ", " ")
    assert "exec --run-dir run --mode bf16 --nodes 2 --node-rank 1 -- " in node
    assert "--nproc-per-node 4 --nnodes 2 --node-rank 1 --master-addr gpu03 --master-port 10123 -m quantctl" in node


def test_run_hands_over_to_each_of_the_60_scripts(monkeypatch):
    """`quantctl run --dry-run` becomes bash with the script and DRY_RUN=1, so that it prints what the script prints."""
    seen = []
    monkeypatch.setattr(os, "execvpe", lambda _, argv, environment: seen.append((argv, environment["DRY_RUN"])))
    expected = []
    for model in MODELS:
        for dataset in DATASETS:
            for mode in SCRIPT_MODES:
                options = ["--model", model, "--dataset", dataset, "--quantization", mode, "--dry-run"]
                assert click.testing.CliRunner().invoke(cli, ["run", *options]).exit_code == 0
                expected.append((["bash", str(script_path(model, dataset, mode)), "--"], "1"))
    assert seen == expected
    assert len(seen) == 60


def test_a_submission_is_sbatch_with_a_script_on_its_input(tmp_path):
    options = ["--model", "llama32-1b", "--dataset", "dolma", "--launcher", "slurm", "--dry-run", "--sbatch=--nodes=2"]

    def shown(*more: str) -> str:
        command = [sys.executable, "-m", "quantctl.cli", "run", *options, *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    one = shown("--quantization", "bf16").splitlines()
    assert one[0].startswith("sbatch --job-name=llama32-1b_dolma_bf16 --ntasks-per-node=1 --export=ALL --requeue ")
    assert one[0].endswith(" --gpus-per-node=8 --nodes=2 <<'EOF'")
    several = shown("--quantization", "bf16,FA_mxfp4", "--platform", "npu", "--", "--name", "a b")
    assert " --gres=npu:8 --array=0-1 --nodes=2 <<'EOF'" in several
    assert re.search(r"\n    1\) exec env (\S+ )*PLATFORM=npu (\S+ )*bash ", several)
    assert "_FA_mxfp4.sh -- --name 'a b' ;;\n    *) echo " in several


def test_a_printed_submission_says_all_that_decides_the_run(quantctl, tmp_path):
    """Pasted into a bare shell: its job's text starts the script with the same settings."""
    given = {"TRAINING_CONFIG": "smoke", "PLATFORM": "cpu", "SEED": "7", "NODE_RANK": "3", "DRY_RUN": "0"}
    options = ["--model", "llama32-1b", "--dataset", "dolma", "--quantization", "bf16", "--iterations", "5"]
    done = quantctl(
        "run", *options, "--launcher", "slurm", "--dry-run", "--", "--x", "a\nEOF\nb", cwd=tmp_path, env=given
    )
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\nexec bash -s\n")
    sbatch.chmod(0o755)
    environment = {"PATH": f"{sbatch.parent}:/usr/bin:/bin", "DRY_RUN": "1", "HOME": str(tmp_path)}
    job = subprocess.run(["bash", "-c", done.out], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    for words in ("CUDA_VISIBLE_DEVICES=", "--seed 7", "--train-iters 5", "bf16_smoke", "--num-layers 4", "a\nEOF\nb"):
        assert words in job.stdout


def test_what_srun_starts_says_all_that_decides_the_run(launch, tmp_path):
    """The printed command holds platform, statistics and what was exported; its own dry run needs no environment."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "a,b", "SLURMD_NODENAME": "a"}
    more = {"PATH": "/nowhere", "FORCE": "1", "MASTER_ADDR": "other", "LINT": "0"}
    arguments = ["--mode", "bf16", "--platform", "npu", "--stats", "every=5", "--env", "A=b c", "--dry-run"]
    srun = launch(*arguments, "--", *TRAINER, **job, **more).stdout
    words = shlex.split(srun.replace(" \\\n", " "))
    again = words[words.index("quantctl.cli") + 2 :]
    assert again[: again.index("--")] == [
        *("--run-dir", "run", "--mode", "bf16", "--processes", "1", "--platform", "npu", "--stats", "every=5"),
        *("--env", "A=b c", "--env", "LINT=0", "--env", "FORCE=1", "--env", "MASTER_ADDR=other"),
    ]


REFUSED_RUNS = {
    "several modes here": (["--quantization", "bf16,FA_mxfp8"], "several modes are for Slurm"),
    "sbatch's options here": (["--quantization", "bf16", "--sbatch=--nodes=2"], "--sbatch is for Slurm"),
    "no number of devices": (["--quantization", "bf16", "--launcher", "slurm"], "GPUS_PER_NODE=x is not a positive"),
    "platform": (["--quantization", "bf16", "--launcher", "slurm", "--platform", "x"], "unknown platform 'x'"),
    "one directory for several": (
        ["--quantization", "bf16,FA_mxfp8", "--launcher", "slurm", "--run-dir", "r"],
        "several modes, one --run-dir",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED_RUNS.values(), ids=REFUSED_RUNS)
def test_refused_runs(quantctl, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("GPUS_PER_NODE", "x")
    done = quantctl("run", "--model", "llama32-1b", "--dataset", "dolma", *options, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_generated_for_slurm(quantctl, tmp_path):
    arguments = ["--launcher", "slurm", "--platform", "npu", "--sbatch=--partition=a b", "--output", tmp_path]
    assert quantctl("generate", *arguments).status == 0
    head = (tmp_path / "llama32-1b" / "pretrain_llama32-1b_dolma_bf16.sh").read_text().splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in head[1:10]]
    assert directives[0] == "--job-name=llama32-1b_dolma_bf16"
    assert directives[5] == "--signal=B:USR1@300"
    assert directives[7:] == ["--gres=npu:8", "--partition=a b"]
    assert 'PLATFORM="${PLATFORM:-npu}"' in head
    assert quantctl("generate", "--launcher", "slurm").status == 2
