"""`quantctl run`: the shipped script of a model, dataset and mode, with settings given as options; here or in Slurm."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from quantctl import output
from quantctl.errors import QuantctlError
from quantctl.launch.scripts import environment, script_path
from quantctl.launch.submission import show, submission, submit

# option -> the script's environment variable
SETTINGS = {
    "training_config": "TRAINING_CONFIG",
    "run_dir": "RUN_DIR",
    "checkpoint": "CHECKPOINT_PATH",
    "tensorboard": "TENSORBOARD_LOGS_PATH",
    "tokenizer": "TOKENIZER",
    "data": "DATA_PATH",
    "dtype": "DTYPE",
    "seed": "SEED",
    "iterations": "TRAIN_ITERS",
    "platform": "PLATFORM",
}


def _submit(
    scripts: list[Path],
    settings: dict[str, str | None],
    extra: tuple[str, ...],
    trailing: tuple[str, ...],
    as_json: bool,
) -> int:
    """Hand the scripts to sbatch, one job or one array; in a dry run only print that."""
    variables = environment({**settings, "DRY_RUN": None})
    name = scripts[0].stem.removeprefix("pretrain_")
    name = name if len(scripts) == 1 else f"{scripts[0].parent.name}_{len(scripts)}_modes"
    commands = [["bash", str(script), "--", *trailing] for script in scripts]
    job = submission(name, commands, variables, extra)
    if settings["DRY_RUN"]:
        show(*job, as_json)
        return 0
    return submit(*job, variables)


@click.command()
@click.option("--model", required=True, help="For the choices see `quantctl list`.")
@click.option("--dataset", required=True)
@click.option("--quantization", required=True, help="One of the ten modes; for Slurm also several: FA_mxfp8,bf16.")
@click.option("--training-config", help="standard (default), fast or smoke.")
@click.option("--run-dir", help="Where manifest, log and proof go.")
@click.option("--checkpoint", help="Folder that checkpoints are read from and written to.")
@click.option("--tensorboard", help="Folder of the TensorBoard events.")
@click.option("--tokenizer", help="Hugging Face tokenizer: a folder or a name.")
@click.option("--data", help="Megatron's indexed dataset, without .bin.")
@click.option("--dtype", help="bf16, fp16 or fp32; default bf16, in smoke runs fp32.")
@click.option("--seed", type=int)
@click.option("--iterations", type=click.IntRange(min=1), help="Optimizer steps.")
@click.option("--platform", help="cuda (default), npu or cpu.")
@click.option("--launcher", type=click.Choice(["local", "slurm"]), default="local", help="Here, or with sbatch.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="For sbatch, e.g. --sbatch=--nodes=2; any number.")
@click.option("--dry-run", is_flag=True, help="Print the command and do nothing.")
@click.argument("trailing", nargs=-1, type=click.UNPROCESSED, metavar="[-- MEGATRON FLAGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    dataset: str,
    quantization: str,
    launcher: str,
    sbatch: tuple[str, ...],
    dry_run: bool,
    trailing: tuple[str, ...],
    **options: str | int | None,
) -> None:
    """Run one training script. An option wins over the environment variable that the script reads.

    With --launcher slurm it is submitted with sbatch; several modes become one job array.
    """
    scripts = [script_path(model, dataset, mode) for mode in quantization.split(",")]
    settings = {SETTINGS[name]: None if value is None else str(value) for name, value in options.items()}
    megatron: Path | None = ctx.obj["megatron"]
    settings["MEGATRON_LM_PATH"] = None if megatron is None else str(megatron)
    settings["DRY_RUN"] = "1" if dry_run else None
    if len(scripts) > 1 and settings["RUN_DIR"]:
        raise QuantctlError("several modes, one --run-dir", "leave it out: each mode has a default of its own")
    if launcher == "slurm":
        ctx.exit(_submit(scripts, settings, sbatch, trailing, ctx.obj["json"]))
    if sbatch or len(scripts) > 1:
        raise QuantctlError("several modes and --sbatch are for Slurm", "add --launcher slurm, or name one mode")
    script = scripts[0]
    argv = ["bash", str(script), "--", *trailing]
    variables = environment(settings)
    if dry_run and ctx.obj["json"]:
        dry = subprocess.run(argv, env=variables, stdout=subprocess.PIPE, text=True)
        if dry.returncode:
            ctx.exit(dry.returncode)
        output.data({"script": str(script), "command": shlex.split(dry.stdout.replace(" \\\n", " "))})
        return
    sys.stdout.flush()
    sys.stderr.flush()
    # the script takes this process's place, so that signals and the exit status are the training's own
    os.execvpe(argv[0], argv, variables)
