"""`quantctl sweep`: a set of modes, models and seeds, side by side, and their comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantctl import output
from quantctl.commands._common import MODE_HELP
from quantctl.commands._options import Mode
from quantctl.commands._training import (
    MODEL,
    of_data,
    refuse_misfits,
    settings_of,
    training_options,
    would_start,
)
from quantctl.errors import DIFFERS, QuantctlError
from quantctl.outside.packages import require

if TYPE_CHECKING:
    from quantctl.sweep.plan import Task


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
"""What says which devices a process may use: of NVIDIA's, of Ascend's runtime."""


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise QuantctlError(f"--seeds {text}: these are no numbers", "write them as 1,2,3") from error


@click.command(short_help="run a set of modes, models and seeds, and compare them")
@click.option("--model", "models", multiple=True, required=True, type=MODEL, help="May be repeated.")
@click.option(
    "--mode",
    "--quantization",
    "modes",
    multiple=True,
    type=Mode(many=True),
    metavar="MODE",
    help=f"{MODE_HELP} A list of them, or repeated.  [default: the ten modes]",
)
@click.option("--seeds", default="1234", show_default=True, help="Comma-separated.")
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("runs/sweep"),
    show_default=True,
    help="Folder of the run directories and of the report.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--devices", multiple=True, metavar="0,1", help="GPUs of one run; repeated, that many runs at a time.")
@training_options
@click.argument("trailing", nargs=-1, type=click.UNPROCESSED, metavar="[-- MEGATRON FLAGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    dataset: str | None,
    modes: tuple[str, ...],
    seeds: str,
    folder: Path,
    jobs: int,
    devices: tuple[str, ...],
    launcher: str,
    sbatch: tuple[str, ...],
    force: bool,
    dry_run: bool,
    trailing: tuple[str, ...],
    **options: str | int | None,
) -> None:
    """Run every mode with every seed, n at a time, and compare them.

    \b
    quantctl sweep --model llama32-1b --dataset wikipedia --seeds 1,2,3 \\
        --training-config smoke --jobs 2
    quantctl sweep --model llama32-1b --dataset dolma --mode bf16 \\
        --mode 'linear=mxfp4:round=stochastic' --devices 0,1 --devices 2,3

    Runs of one seed share initial weights and data order. A failed run is shown and does not stop the others; the same
    command again runs only what is not finished. The report lies in OUTPUT/MODEL/report. Exit status 1 if a run failed.
    """
    from rich.console import Console

    from quantctl.modes import SCRIPT_MODES
    from quantctl.runs.privacy import as_private_as_tree_in_use
    from quantctl.sweep.plan import tasks
    from quantctl.sweep.runner import Slot, State, run
    from quantctl.sweep.show import watching

    base, called = of_data(dataset, str(options["data"] or ""))
    settings = settings_of(options, ctx.obj["megatron"], force)
    if devices and jobs > 1:
        raise QuantctlError("--jobs and --devices both say how many runs go at a time", "give one of them")
    if devices and launcher == "slurm":
        raise QuantctlError("--devices is for runs on this machine", "Slurm chooses them: leave it out")
    slots = [
        Slot({**dict.fromkeys(_VISIBLE, group), "GPUS_PER_NODE": str(len(group.split(",")))}) for group in devices
    ] or [Slot() for _ in range(jobs)]
    as_private_as_tree_in_use(ctx.obj["megatron"])
    planned = tasks(models, called, modes or SCRIPT_MODES, _numbers(seeds), folder, settings, trailing, base)
    if not dry_run:
        for task in {(task.model, task.mode): task for task in planned if not task.is_finished()}.values():
            refuse_misfits(task.mode, task.command, task.variables())
    if launcher == "slurm":
        ctx.exit(_submit(planned, settings, sbatch, jobs, dry_run, ctx.obj["json"]))
    if sbatch:
        raise QuantctlError("--sbatch is for Slurm", "add --launcher slurm")
    if dry_run:
        _show(planned, ctx.obj["json"])
        return
    _require_packages(settings, trailing)
    _require_machine([task for task in planned if not task.is_finished()], slots[0].variables)
    console = Console(stderr=True)
    with watching(console) as watch:
        done = run(planned, slots, watch)
    failed = [job for job in done if job.state is State.FAILED]
    for job in failed:
        output.say(f"\n{job.task.name} failed; the end of {job.task.run_dir / 'script.txt'}:\n{job.last_words()}")
    try:
        _report(models, folder, ctx.obj["json"])
    except QuantctlError as error:
        if not failed:
            raise
        output.say(f"no report: {error.message}")
    if failed:
        output.say(f"{len(failed)} of {len(done)} runs failed; the same command runs them again")
        ctx.exit(DIFFERS)


def _show(planned: Sequence[Task], as_json: bool) -> None:
    """List the runs."""
    if as_json:
        keys = ("model", "dataset", "mode", "seed", "run_dir")
        output.data([{key: getattr(task, key) for key in keys} | {"finished": task.is_finished()} for task in planned])
        return
    for task in planned:
        click.echo(f"{'finished' if task.is_finished() else 'to run':<9} {os.path.relpath(task.run_dir)}")


def _require_packages(settings: Mapping[str, str], trailing: Sequence[str]) -> None:
    """Raises QuantctlError that names all that is missing of the embedded trainer, where it trains, and the report."""
    from quantctl.launch import embedded

    tree = settings.get("MEGATRON_LM_PATH") or os.environ.get("MEGATRON_LM_PATH") or ""
    trained = {} if tree and Path(tree, "pretrain_gpt.py").is_file() else embedded.needed(tree, trailing)
    own = {} if os.environ.get("PYTHON") else trained  # another Python is asked by each run
    require("a sweep with its report", {**own, "report": ("matplotlib",)})


def _require_machine(planned: Sequence[Task], slot: Mapping[str, str]) -> None:
    """Raises QuantctlError when this machine cannot train one of the models, by what its script would start."""
    from quantctl.launch import machine
    from quantctl.launch.submission import processes

    for task in {task.model: task for task in planned}.values():
        variables = task.variables(**slot)
        if variables.get("LINT") == "0":
            continue
        words = would_start(task.command, variables)
        if words is None:
            continue
        instead = f"quantctl sweep --model {task.model} --dataset {task.base or task.dataset} --training-config smoke"
        instead = f"MEGATRON_LM_PATH= {instead}" if variables.get("MEGATRON_LM_PATH") else instead
        machine.require(words, variables.get("PLATFORM") or "cuda", processes(variables), variables, instead)


def _submit(
    planned: Sequence[Task], settings: dict[str, str], sbatch: tuple[str, ...], jobs: int, dry_run: bool, as_json: bool
) -> int:
    """One job array of what is not finished; finished runs skip themselves when it is submitted again."""
    from quantctl.launch.scripts import environment
    from quantctl.launch.submission import show, submission, submit
    from quantctl.sweep import record

    missing = [task for task in planned if not task.is_finished()]
    if not missing:
        output.say("every run is finished: compare them with quantctl report")
        return 0
    commands = [["env", *(f"{k}={v}" for k, v in task.own.items()), *task.command] for task in missing]
    variables = environment(settings)
    argv, text = submission(f"sweep_{len(missing)}_runs", commands, variables, sbatch)
    if jobs > 1:
        argv = [f"{word}%{jobs}" if word.startswith("--array=") else word for word in argv]
    if dry_run:
        show(argv, text, as_json)
        return 0
    status = submit(argv, text, variables, [task.run_dir for task in missing])
    for task in missing:
        record.write(task.run_dir, task.experiment)
    return status


def _report(models: tuple[str, ...], folder: Path, as_json: bool) -> None:
    from quantctl.report.write import write

    for model in models:
        if len(models) > 1 and not as_json:
            click.echo(f"\n{model}")
        write([folder / model], folder / model / "report", title=f"What the formats cost: {model}", as_json=as_json)
