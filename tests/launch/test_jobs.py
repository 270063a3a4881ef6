"""What a Slurm job is told, finds out about itself and does on a signal; test_slurm.py has a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import click.testing
import pytest

from quantctl.cli import cli
from quantctl.errors import QuantctlError
from quantctl.launch import queued, rendezvous, slurm, submission
from quantctl.sweep import runner
from quantctl.sweep.runner import Slot

JOB = {"SLURM_JOB_ID": "20012", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[03-04]"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1"}
INTERACTIVE = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}
LIST = {"SLURM_STEP_NODELIST": "gpu[03-04]"}
EXPORTED = {"NNODES": "1", "NODE_RANK": "0"}

PLACES = {
    "a batch script": (JOB, (2, 0, "gpu03", 10012), True),
    "a task": (JOB | STEP | LIST, (2, 1, "gpu03", 10012), False),
    "salloc's interactive shell": (JOB | INTERACTIVE, (2, 0, "gpu03", 10012), True),
    "the batch step": (JOB | INTERACTIVE | {"SLURM_STEP_ID": "4294967291"}, (2, 0, "gpu03", 10012), True),
    "a task of a script that exports": (JOB | STEP | LIST | EXPORTED, (2, 1, "gpu03", 10012), False),
    "a task with an address": (JOB | STEP | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}, (2, 1, "a", 7), False),
    "a batch script with an address": (JOB | {"MASTER_ADDR": "a", "SLURM_JOB_NODELIST": ""}, (2, 0, "a", 10012), True),
    "no job": ({"SLURM_STEP_ID": "0"}, (1, 0, None, None), False),
}


@pytest.mark.parametrize(("environment", "place", "batch"), PLACES.values(), ids=PLACES)
def test_where_a_process_stands(monkeypatch, environment, place, batch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert rendezvous.read(environment) == rendezvous.Rendezvous(*place)
    assert slurm.is_batch(environment) == batch


HOSTS = {
    "gpu[03-04,07]-ib": "gpu03-ib",
    "gpu[7,9-11]": "gpu7",
    "a,b": "a",
    "a": "a",
    "rack[1-2]node[08-09],b[1-2]": "rack1node08",
}


@pytest.mark.parametrize(("nodes", "first"), HOSTS.items())
def test_the_first_host_without_scontrol(monkeypatch, nodes, first):
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.first_host(nodes) == first


NAMES = {
    "no array": ({}, "12"),
    "the task whose id is the array's": ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
    "another task": ({"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}, "12"),
}


@pytest.mark.parametrize(("array", "name"), NAMES.values(), ids=NAMES)
def test_what_a_job_is_called(array, name):
    assert slurm.own_name({"SLURM_JOB_ID": "12", **array}) == name


def test_sbatch_gets_nothing_of_the_job_it_is_called_in(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    variables = {"PATH": os.environ["PATH"], "SLURM_STEP_ID": "0", "SLURM_CONF": "c", "SLURM_ARRAY_TASK_ID": "5"}
    call = f"submit(['sbatch'], '', {variables!r}, [])"
    script = f"import sys; from quantctl.launch.submission import submit; sys.exit({call})"
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert [line for line in seen.splitlines() if line.startswith("SLURM_")] == ["SLURM_CONF=c"]


OUTPUTS = {
    "as it is": ([], False, "name-12.out"),
    "of an array": ([], True, "name-*.out"),
    "a short option, its value apart": (["-o", "log/%A_%4a-%N%%.txt"], True, "log/12_*-*%.txt"),
    "one that wins": (["--output=a", "-ob", "-D", "/there", "--job-name", "other"], False, "/there/b"),
}


@pytest.mark.parametrize(("extra", "is_array", "wanted"), OUTPUTS.values(), ids=OUTPUTS)
def test_where_a_job_prints(extra, is_array, wanted):
    argv, _ = submission.submission("name", [["true"]], {}, ())
    assert queued.output_file([*argv, *extra], "12", is_array) == wanted


def test_after_sbatch_its_files_and_the_next_commands_are_said(capsys):
    queued.tell(["sbatch", "--job-name=a", "-D", "/there"], "12;cluster\n", ["runs/a"])
    said = capsys.readouterr().err
    for words in ("job 12 ", " /there/slurm-12.out", " squeue --jobs=12", " tail -F /there/runs/a/log.txt"):
        assert words in said
    assert said.rstrip().endswith("quantctl report /there/runs/a")


ANSWERS = {
    "sbatch": ("Submitted batch job 12 on cluster there\n", "12"),
    "--parsable": ("12;there\n", "12"),
    "a wrapper around it": ("Welcome 2026\n== project 7 ==\nSubmitted batch job 12\n", "12"),
    "a wrapper that prints the number alone": ("checking 3 limits\n12\n", "12"),
    "words of its own": ("Your job 12 (name) has been submitted", "12"),
    "others": ("queue: gpu\nJob ID: 12\n", "12"),
    "--quiet": ("\n", None),
    "no number": ("submitted, thank you\n", None),
}


@pytest.mark.parametrize(("answer", "number"), ANSWERS.values(), ids=ANSWERS)
def test_the_number_of_a_job(answer, number):
    assert queued.job_number(answer) == number


def test_without_a_number_the_logs_are_said_all_the_same(capsys):
    argv, _ = submission.submission("name", [["true"]], {}, ())
    queued.tell(argv, "", ["runs/a"])
    said = capsys.readouterr().err
    assert "the job  name-*.out\nits log  runs/a/log.txt\nwaits?   squeue --me\n" in said
    queued.tell([*argv, "--test-only"], "", ["runs/a"])
    assert capsys.readouterr().err == ""


REFUSALS = {
    "no GPUs": ("Batch job submission failed: Requested node configuration is not available", "--platform cpu"),
    "no Slurm": ("Could not establish a configuration source", "login node"),
    "unknown to us": ("Batch job submission failed: Unspecified error", "--dry-run shows what it was given"),
    "silent": ("", "--dry-run shows what it was given"),
}


@pytest.mark.parametrize(("said", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_the_way_out(said, hint):
    kind = "error" if ": " in said else "fatal"
    error = queued.refused(f"sbatch: warning: a\nsbatch: {kind}: {said}\n" if said else "")
    assert "sbatch: " not in error.message
    assert hint in error.hint
    assert said.rpartition(": ")[2] in error.message


INDICES = {"0": (0, "first\n", ""), "1": (0, "second\n", ""), "7": (2, "", "array index 7 has no command\n")}


@pytest.mark.parametrize(("index", "expected"), INDICES.items())
def test_an_index_without_a_command_is_an_error(index, expected):
    steps = "echo ${SLURM_STEP_ID-}${SLURM_STEPID-}"
    commands = [["bash", "-c", f"{steps}{word}"] for word in ("first", "second")]
    _, text = submission.submission("name", commands, {}, ())
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": index, "SLURM_STEP_ID": "0", "SLURM_STEPID": "0"}
    done = subprocess.run(["bash"], input=text, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == expected


@pytest.mark.parametrize(("cpus", "said"), [("16", False), ("15", True), ("", False)])
def test_few_cpus_are_said(capsys, cpus, said):
    slurm.look_at_node({"SLURM_CPUS_ON_NODE": cpus}, "cuda", 8)
    assert ("--sbatch=--cpus-per-task=16 or --sbatch=--exclusive" in capsys.readouterr().err) == said


def test_few_gpus_are_refused():
    with pytest.raises(QuantctlError, match="8 processes, and the job has 4 GPUs on this node"):
        slurm.look_at_node({"SLURM_GPUS_ON_NODE": "4"}, "cuda", 8)


@pytest.mark.parametrize(("platform", "gpus"), [("cuda", "8"), ("cuda", ""), ("cpu", "4"), ("npu", "4")])
def test_enough_gpus_or_none_asked_for(platform, gpus):
    slurm.look_at_node({"SLURM_GPUS_ON_NODE": gpus}, platform, 8)


RUN = "while [ ! -e run/stop ]; do sleep 0.1; done; exit 0"
BATCH = {
    # what lint does, what the run does, exit status, what scontrol was told, what is said
    "a signal in the run": ("exit 0", f"kill -USR1 $PPID; {RUN}", 0, "requeue 12_3", "checkpoint saved"),
    "SIGTERM in the run": ("exit 0", f"kill -TERM $PPID; {RUN}", 0, None, ""),
    "a signal during lint": ("kill -USR1 $PPID; exit 0", "exit 7", 0, "requeue 12_3", "before anything was started"),
    "a wish during lint": ("mkdir -p run; touch run/stop; exit 0", RUN, 0, None, ""),
    "a file from before": ("exit 0", "[ ! -e run/stop ] && exit 7", 7, None, ""),
    "no room for the file": (
        "exit 0",
        "rm -r run; trap 'exit 0' TERM; kill -USR1 $PPID; while :; do sleep 0.1; done",
        0,
        "requeue 12_3",
        "checkpoint saved",
    ),
}


@pytest.mark.parametrize(("lint", "run", "status", "told", "said"), BATCH.values(), ids=BATCH)
def test_a_batch_script_on_signals(tmp_path, lint, run, status, told, said):
    programs = {
        "quantctl": f"if [ $1 = lint ]; then {lint}; fi\n{run}",
        "scontrol": f"echo $@ >{tmp_path}/told",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    array = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURMD_NODENAME": "a"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "QUANTCTL": str(tmp_path / "quantctl")}
    command = ["launch", "--run-dir", "run", "--mode", "bf16", "--", "-m", "quantctl.pretrain", "--save", "c"]
    done = subprocess.run(
        [sys.executable, "-m", "quantctl.cli", *command],
        cwd=tmp_path,
        env=kept | array | path,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    assert done.returncode == status, done.stderr
    assert ((tmp_path / "told").read_text().strip() if (tmp_path / "told").exists() else None) == told
    assert said in done.stderr


SWEEP = ["sweep", "--model", "llama32-1b", "--dataset", "dolma", "--mode", "bf16"]


def test_a_slot_of_a_sweep_has_its_devices_on_either_platform(monkeypatch, tmp_path):
    seen = []

    def run(tasks: object, slots: list[Slot], watch: object) -> None:
        seen.extend(slot.variables for slot in slots)
        raise QuantctlError("seen")

    monkeypatch.setattr(runner, "run", run)
    words = [*SWEEP, "--training-config", "smoke", "--output", str(tmp_path), "--devices", "0,1", "--devices", "2"]
    click.testing.CliRunner().invoke(cli, words)
    assert seen == [
        {"CUDA_VISIBLE_DEVICES": "0,1", "ASCEND_RT_VISIBLE_DEVICES": "0,1", "GPUS_PER_NODE": "2"},
        {"CUDA_VISIBLE_DEVICES": "2", "ASCEND_RT_VISIBLE_DEVICES": "2", "GPUS_PER_NODE": "1"},
    ]


def test_slurm_chooses_a_sweeps_devices_itself(quantctl, tmp_path):
    words = [*SWEEP, "--output", tmp_path, "--devices", "0", "--launcher", "slurm", "--dry-run"]
    done = quantctl(*words, cwd=tmp_path)
    assert (done.status, "--devices is for runs on this machine" in done.err) == (2, True)
