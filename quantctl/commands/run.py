"""`quantctl run`: the shipped script of a model, dataset and mode, with settings given as options; here or in Slurm."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import click

from quantctl import output
from quantctl.commands._common import MODE_HELP
from quantctl.commands._options import Mode
from quantctl.commands._training import MODEL, of_data, refuse_misfits, settings_of, training_options
from quantctl.errors import QuantctlError
from quantctl.launch.scripts import Run, environment
from quantctl.launch.submission import show, submission, submit
from quantctl.modes import all_choices


def _submit(
    runs: list[Run], settings: dict[str, str], extra: tuple[str, ...], trailing: tuple[str, ...], dry: bool, json: bool
) -> int:
    """Hand the runs to sbatch, one job or one array; in a dry run only print that."""
    variables = environment(settings)
    variables.pop("DRY_RUN", None)
    name = runs[0].name if len(runs) == 1 else f"{runs[0].model}_{len(runs)}_modes"
    job = submission(name, [run.command(trailing) for run in runs], variables, extra)
    if dry:
        show(*job, json)
        return 0
    return submit(*job, variables, [run.run_dir for run in runs])


@click.command()
@click.option("--model", type=MODEL, required=True)
@click.option(
    "--mode",
    "--quantization",
    "modes",
    type=Mode(many=True),
    multiple=True,
    required=True,
    metavar="MODE",
    help=f"{MODE_HELP} For Slurm also several: FA_mxfp8,bf16.",
)
@training_options
@click.option("--run-dir", help="Where manifest, log and proof go.  [default: runs/MODEL_DATASET_MODE_CONFIG]")
@click.option("--checkpoint", help="Folder that checkpoints are read from and written to.")
@click.option("--tensorboard", help="Folder of the TensorBoard events.")
@click.option("--seed", type=int)
@click.argument("trailing", nargs=-1, type=click.UNPROCESSED, metavar="[-- MEGATRON FLAGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    dataset: str | None,
    modes: tuple[str, ...],
    launcher: str,
    sbatch: tuple[str, ...],
    force: bool,
    dry_run: bool,
    trailing: tuple[str, ...],
    **options: str | int | None,
) -> None:
    """Run one training script. An option wins over the environment variable that the script reads.

    \b
    quantctl run --model llama32-1b --dataset wikipedia --mode FA_mxfp8 \\
        --training-config smoke
    quantctl run --model llama32-1b --data data/mine_text_document \\
        --tokenizer DIR --mode 'linear=mxfp8 lm_head=mxfp8'

    With --launcher slurm it is submitted with sbatch; several modes become one job array.
    """
    base, name = of_data(dataset, str(options["data"] or ""))
    settings = settings_of(options, ctx.obj["megatron"], force)
    own = environment(settings)
    chosen = all_choices(modes)
    runs = [Run.of(model, base, name, mode, own) for mode in chosen]
    if len(runs) > 1 and "RUN_DIR" in settings:
        raise QuantctlError("several modes, one --run-dir", "leave it out: each mode has a default of its own")
    for mode, run in zip(chosen, runs, strict=True) if not dry_run else ():
        refuse_misfits(mode, run.bash(trailing), environment({**settings, **run.own}))
    if launcher == "slurm":
        ctx.exit(_submit(runs, settings, sbatch, trailing, dry_run, ctx.obj["json"]))
    if sbatch:
        raise QuantctlError("--sbatch is for Slurm", "add --launcher slurm")
    if len(runs) > 1:
        raise QuantctlError("several modes are for Slurm", "add --launcher slurm, or: quantctl sweep, which compares")
    (run,) = runs
    argv = run.bash(trailing)
    variables = environment({**settings, **run.own, **({"DRY_RUN": "1"} if dry_run else {})})
    if dry_run and ctx.obj["json"]:
        dry = subprocess.run(argv, env=variables, stdout=subprocess.PIPE, text=True)
        if dry.returncode:
            ctx.exit(dry.returncode)
        output.data({"script": argv[1], "command": shlex.split(dry.stdout.replace(" \\\n", " "))})
        return
    sys.stdout.flush()
    sys.stderr.flush()
    # the script takes this process's place, so that signals and the exit status are the training's own
    os.execvpe(argv[0], argv, variables)
