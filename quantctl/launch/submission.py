"""Handing scripts to sbatch: one job, or one array, whose text says everything that decides the runs."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from quantctl import output
from quantctl.errors import FINE, QuantctlError
from quantctl.launch import queued, slurm
from quantctl.launch.settings import SETTINGS, choose, positive

_NOT_THE_JOBS = {"DRY_RUN", "NNODES", "NODE_RANK"}
"""Settings of the call itself, and those that a job has from Slurm."""


def processes(variables: Mapping[str, str]) -> int:
    """Devices of a node: GPUS_PER_NODE, else what the training config says."""
    from quantctl.script.training import TRAINING_CONFIGS

    name = variables.get("TRAINING_CONFIG") or next(iter(TRAINING_CONFIGS))
    config = TRAINING_CONFIGS[choose("TRAINING_CONFIG", name, TRAINING_CONFIGS)]
    return positive("GPUS_PER_NODE", variables.get("GPUS_PER_NODE") or str(config.gpus_per_node))


def settings_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The scripts' settings among an environment's variables: what a job's text must say to be the same elsewhere."""
    return {name: variables[name] for name in SETTINGS if name in variables and name not in _NOT_THE_JOBS}


def submission(
    name: str, commands: Sequence[Sequence[str]], variables: Mapping[str, str], extra: Sequence[str]
) -> tuple[list[str], str]:
    """sbatch's arguments and, for its standard input, the job's script: it runs one of `commands`, by array index.

    The scripts' settings among `variables` stand in the text; what else is in the environment travels with the job.
    """
    from quantctl.script.platforms import PLATFORMS

    array = [f"--array=0-{len(commands) - 1}"] if len(commands) > 1 else []
    platform = choose("PLATFORM", variables.get("PLATFORM") or "cuda", PLATFORMS)
    options = slurm.options(name, platform, processes(variables), [*array, *extra])
    settings = [f"{key}={value}" for key, value in settings_of(variables).items()]
    front = f"exec env {shlex.join(settings)} " if settings else "exec "
    cases = "".join(f"    {number}) {front}{shlex.join(command)} ;;\n" for number, command in enumerate(commands))
    text = f"""#!/usr/bin/env bash
# of a step that sbatch was called in; here they would say that srun started this
unset SLURM_STEP_ID SLURM_STEPID
case "${{SLURM_ARRAY_TASK_ID:-0}}" in
{cases}    *) echo "array index $SLURM_ARRAY_TASK_ID has no command" >&2; exit 2 ;;
esac
"""
    return ["sbatch", *options], text


def show(argv: Sequence[str], text: str, as_json: bool) -> None:
    """Print a submission: for a shell, or as data."""
    if as_json:
        output.data({"command": list(argv), "stdin": text})
        return
    end = "EOF"
    while end in text.splitlines():
        end += "_"
    click.echo(f"{shlex.join(argv)} <<'{end}'\n{text}{end}")


def submit(argv: Sequence[str], text: str, variables: Mapping[str, str], run_dirs: Sequence[str | Path]) -> int:
    """Hand a submission to sbatch, and say where its runs will write; the exit status.

    Raises QuantctlError where there is no sbatch, and with the way out where it refuses.
    """
    environment = slurm.for_submission(variables)
    try:
        done = subprocess.run(argv, env=environment, input=text, text=True, capture_output=True)
    except FileNotFoundError as error:
        raise QuantctlError("there is no sbatch here", "run it on a machine of the Slurm cluster") from error
    if done.returncode:
        raise queued.refused(done.stderr)
    if done.stderr.strip():
        output.say(done.stderr.rstrip())
    click.echo(done.stdout, nl=False)
    queued.tell(argv, f"{done.stdout}\n{done.stderr}", run_dirs)
    return FINE
