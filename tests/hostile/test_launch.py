"""Settings of a launch that no scheduler and no person means: each is refused in a sentence, before anything starts."""

from __future__ import annotations

import os

import pytest
from hostile import assert_civil, run

LAUNCH = ["launch", "--run-dir", "run", "--mode", "bf16", "--", "-m", "quantctl.pretrain", "--train-iters", "10"]
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "a,b", "SLURMD_NODENAME": "a"}
DIGITS = "9" * 5000

VARIABLES = {
    # what is set, and what the sentence names
    "a job's id in letters": (JOB | {"SLURM_JOB_ID": "abc"}, "SLURM_JOB_ID=abc is not a number"),
    "a job's id without end": (JOB | {"SLURM_JOB_ID": DIGITS}, "SLURM_JOB_ID=999"),
    "a superscript": (JOB | {"SLURM_JOB_ID": "²"}, "SLURM_JOB_ID=²"),
    "nodes in letters": (JOB | {"SLURM_JOB_NUM_NODES": "two"}, "SLURM_JOB_NUM_NODES=two"),
    "nodes below zero": (JOB | {"SLURM_JOB_NUM_NODES": "-1"}, "SLURM_JOB_NUM_NODES=-1"),
    "a step in letters": (JOB | {"SLURM_STEP_ID": "batch"}, "SLURM_STEP_ID=batch"),
    "a task count": (JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1e3"}, "SLURM_STEP_NUM_TASKS=1e3"),
    "a node's number": (JOB | {"SLURM_NODEID": "\x1b[31m"}, "SLURM_NODEID=\\x1b[31m"),
    "an array's index": (JOB | {"SLURM_ARRAY_TASK_ID": "1; rm"}, "SLURM_ARRAY_TASK_ID=1; rm"),
    "an array's id": (JOB | {"SLURM_ARRAY_JOB_ID": "x\ny"}, "SLURM_ARRAY_JOB_ID=x\\x0ay"),
    "hosts that are none": (JOB | {"SLURM_JOB_NODELIST": "[[;"}, "'[[;' is no list of hosts"),
    "hosts that are commas": (JOB | {"SLURM_JOB_NODELIST": ",,"}, "',,' is no list of hosts"),
    "NNODES without end": ({"NNODES": DIGITS}, "NNODES=999"),
    "NNODES with underscores": ({"NNODES": "1_0"}, "NNODES=1_0"),
    "a node rank": ({"NODE_RANK": "first"}, "NODE_RANK=first"),
    "a rank": ({"RANK": "x"}, "RANK=x is not a number"),
    "a world": ({"WORLD_SIZE": "all\n"}, "WORLD_SIZE=all\\x0a"),
    "a local rank": ({"LOCAL_RANK": "0.5"}, "LOCAL_RANK=0.5"),
    "a port": ({"MASTER_PORT": "http"}, "MASTER_PORT=http"),
    "an address of two lines": ({"NNODES": "2", "MASTER_ADDR": "a\nb"}, "MASTER_ADDR=a\\x0ab is no host name"),
    "an address of two words": ({"MASTER_ADDR": "a b", "MASTER_PORT": "1"}, "MASTER_ADDR=a b is no host name"),
}


@pytest.mark.parametrize(("variables", "named"), VARIABLES.values(), ids=VARIABLES)
def test_a_variable_of_nobodys(tmp_path, variables, named):
    # a PATH without scontrol, which asks a controller that is not there
    ended = run(LAUNCH, tmp_path, {"PATH": "/nowhere", **variables})
    assert_civil(ended, 2)
    assert named in ended.err.splitlines()[0]
    assert len(ended.err) < 500
    assert os.listdir(tmp_path) == []


COMBINATION = ["--model", "llama32-1b", "--dataset", "dolma"]
SUBMIT = ["run", *COMBINATION, "--quantization", "bf16", "--launcher", "slurm", "--dry-run"]
SWEEP = ["sweep", *COMBINATION, "--launcher", "slurm", "--dry-run"]
GENERATE = ["generate", "--launcher", "slurm", "--output", "out"]
OPTIONS = {
    "a second line": "--nodes=2\nrm -rf ~",
    "a carriage return": "--nodes=2\rrm",
    "an escape": "--comment=\x1b[2J",
    "a line separator": "--comment=a\u2028b",
    "a next line": "--comment=a\x85b",
    "no option": "nodes=2",
    "nothing": "",
}


@pytest.mark.parametrize("command", [SUBMIT, SWEEP, GENERATE], ids=["run", "sweep", "generate"])
@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_sbatchs_options_are_one_line_each(tmp_path, command, option):
    ended = run([*command, f"--sbatch={option}"], tmp_path)
    assert_civil(ended, 2)
    assert "--sbatch" in ended.err.splitlines()[0]
    assert "\x1b" not in ended.err
    assert os.listdir(tmp_path) == []


ENVIRONMENT = {
    "iterations without end": ({"TRAIN_ITERS": DIGITS}, "TRAIN_ITERS=999"),
    "GPUs in letters": ({"GPUS_PER_NODE": "eight"}, "GPUS_PER_NODE=eight is not a positive number"),
    "a config of two lines": ({"TRAINING_CONFIG": "a\nb"}, "unknown TRAINING_CONFIG"),
    "a run directory of two lines": ({"RUN_DIR": "a\nb"}, "RUN_DIR a\\x0ab holds a control character"),
    "selectors that are none": ({"SELECTORS": "--rm -rf"}, "quantctl launch has no option '--rm'"),
    "a quotation without end": ({"SELECTORS": "--linear 'mxfp8; layers 1: none"}, "No closing quotation"),
    "statistics": ({"STATS": "sometimes"}, "sometimes"),
}


@pytest.mark.parametrize(("variables", "named"), ENVIRONMENT.values(), ids=ENVIRONMENT)
def test_a_scripts_setting_that_is_none(tmp_path, variables, named):
    ended = run(["run", *COMBINATION, "--quantization", "bf16", "--dry-run"], tmp_path, variables)
    assert_civil(ended, 2)
    assert named in ended.err
    assert len(ended.err) < 1500
    assert os.listdir(tmp_path) == []
