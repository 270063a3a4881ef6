"""From a combination to its script and the environment it runs in."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import click

from quantctl import output
from quantctl.errors import QuantctlError


def _choose(kind: str, value: str, choices: Collection[str]) -> str:
    if value not in choices:
        raise QuantctlError(f"unknown {kind} {value!r}", f"choose from: {', '.join(choices)}")
    return value


def script_path(model: str, dataset: str, mode: str) -> Path:
    """The shipped script of a combination.

    Raises QuantctlError with the choices for a model, dataset or mode that has no scripts, and when the
    installation lacks the file.
    """
    from quantctl.modes import SCRIPT_MODES
    from quantctl.script.datasets import DATASETS
    from quantctl.script.models import MODELS
    from quantctl.script.render import FOLDER, relative_path

    path = FOLDER / relative_path(
        _choose("model", model, MODELS), _choose("dataset", dataset, DATASETS), _choose("mode", mode, SCRIPT_MODES)
    )
    if not path.is_file():
        raise QuantctlError(f"{path} is missing from this installation", "write it with: quantctl generate")
    return path


def environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the settings that are not None, and with QUANTCTL as the quantctl in use."""
    changed = os.environ | {name: value for name, value in settings.items() if value is not None}
    beside = Path(sys.executable).with_name("quantctl")
    if "QUANTCTL" not in changed and beside.is_file():
        changed["QUANTCTL"] = str(beside)
    return changed


def _processes(variables: Mapping[str, str]) -> int:
    """Devices of a node: GPUS_PER_NODE, else what the training config says."""
    from quantctl.script.training import TRAINING_CONFIGS

    name = variables.get("TRAINING_CONFIG") or next(iter(TRAINING_CONFIGS))
    config = TRAINING_CONFIGS[_choose("TRAINING_CONFIG", name, TRAINING_CONFIGS)]
    text = variables.get("GPUS_PER_NODE") or str(config.gpus_per_node)
    if not text.isdecimal() or int(text) < 1:
        raise QuantctlError(f"GPUS_PER_NODE={text} is not a positive number", "unset it, or give a number")
    return int(text)


def submission(
    name: str, commands: Sequence[Sequence[str]], variables: Mapping[str, str], extra: Sequence[str]
) -> tuple[list[str], str]:
    """sbatch's arguments and, for its standard input, the job's script: it runs one of `commands`, by array index."""
    from quantctl import slurm
    from quantctl.script.platforms import PLATFORMS

    array = [f"--array=0-{len(commands) - 1}"] if len(commands) > 1 else []
    platform = _choose("PLATFORM", variables.get("PLATFORM") or "cuda", PLATFORMS)
    options = slurm.options(name, platform, _processes(variables), [*array, *extra])
    cases = "".join(f"    {number}) exec {shlex.join(command)} ;;\n" for number, command in enumerate(commands))
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
    else:
        click.echo(f"{shlex.join(argv)} <<'EOF'\n{text}EOF")


def submit(argv: Sequence[str], text: str, variables: Mapping[str, str]) -> int:
    """Hand a submission to sbatch; the exit status."""
    from quantctl import slurm

    try:
        return subprocess.run(argv, env=slurm.for_submission(variables), input=text, text=True).returncode
    except FileNotFoundError as error:
        raise QuantctlError("there is no sbatch here", "run it on a machine of the Slurm cluster") from error


def call_cli(*arguments: str) -> NoReturn:
    """Run `quantctl ARGUMENTS` under this interpreter and exit as it does: for the front ends in script/."""
    sys.exit(subprocess.call([sys.executable, "-m", "quantctl.cli", *arguments]))
