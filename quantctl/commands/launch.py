"""`quantctl launch`: start a trainer on every device and node of this run; what the training scripts end in."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantctl import output
from quantctl.commands._common import chosen_values, selector_options
from quantctl.errors import REFUSED, QuantctlError
from quantctl.launch.settings import SETTINGS, choose
from quantctl.script.platforms import PLATFORMS
from quantctl.tree.tree import find_tree

if TYPE_CHECKING:
    from quantctl.launch.plan import Plan
    from quantctl.launch.rendezvous import Rendezvous

_TABLE = "\n".join(
    textwrap.fill(f"{name:<22} {what}", 76, initial_indent="  ", subsequent_indent=" " * 25)
    for name, what in SETTINGS.items()
)


def _selector_words(mode: str | None, specs: Mapping[str, str | None]) -> list[str]:
    given = {"mode": mode, **specs}
    return [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def _lint(command: Sequence[str], name: str | None) -> None:
    """Raises QuantctlError when the command has errors; they are printed."""
    from quantctl.launch import plan

    named = ["--name", name] if name else []
    done = subprocess.run([plan.quantctl(), "lint", "--errors-only", *named, "--", *command], stdout=sys.stderr)
    if done.returncode:
        raise QuantctlError("lint found errors in this command: nothing was started", "LINT=0 starts it all the same")


def _of_script(
    ctx: click.Context,
    script: str,
    mode: str | None,
    specs: Mapping[str, str | None],
    options: Mapping[str, str | None],
    processes: int,
    words: tuple[str, ...],
) -> tuple[Plan, bool]:
    """What a training script asks for, and whether it is a dry run. A refusal speaks in the script's name."""
    from quantctl.launch import plan
    from quantctl.launch.script import Script, is_dry, resolve

    def say(text: str) -> None:
        sys.stderr.write(f"{script}: {text}\n")

    if missing := [name for name, value in {"mode": mode, **options}.items() if value is None]:
        raise QuantctlError(f"--script without --{missing[0].replace('_', '-')}", "a script that quantctl wrote has it")
    texts = {name: str(value) for name, value in options.items()}
    asked = Script(
        script,
        texts["model"],
        texts["dataset"],
        str(mode),
        texts["training_config"],
        texts["platform"],
        processes,
        tuple(_selector_words(mode, specs)),
        words,
    )
    try:
        dry = is_dry(os.environ)
        return resolve(asked, os.environ, plan.python(), dry, say), dry
    except QuantctlError as error:
        say(f"{error.message}\n  {error.hint}" if error.hint else error.message)
        ctx.exit(REFUSED)


@click.command(
    short_help="start a trainer on every device and node of this run", epilog=f"\b\nA script's settings:\n{_TABLE}"
)
@selector_options
@click.option("--run-dir", help="Where the run leaves its files; nodes share it.")
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Processes a node: its GPUs or NPUs.")
@click.option("--platform", default="cuda", show_default=True, help="cuda, npu or cpu.")
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="Set for the run; any number of times.")
@click.option("--stats", metavar="every=N", help="Record what the formats do to the products, every N steps.")
@click.option("--name", help="What the run is called; lint compares it with the formats.")
@click.option("--dry-run", is_flag=True, help="Print the command and do nothing.")
@click.option("--script", metavar="NAME", help="Called by this training script: its settings are in the environment.")
@click.option("--model", help="The script's.")
@click.option("--dataset", help="The script's.")
@click.option("--training-config", help="The script's.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- TRAINER FLAGS...")
@click.pass_context
def command(
    ctx: click.Context,
    mode: str | None,
    run_dir: str | None,
    processes: int,
    platform: str,
    variables: tuple[str, ...],
    stats: str | None,
    name: str | None,
    dry_run: bool,
    script: str | None,
    model: str | None,
    dataset: str | None,
    training_config: str | None,
    words: tuple[str, ...],
    **specs: str | None,
) -> None:
    """Start TRAINER with torchrun through `quantctl exec`.

    Several nodes: start it on each with NNODES, NODE_RANK, MASTER_ADDR (and MASTER_PORT) in the environment. In a Slurm
    job it starts itself on every node with srun and takes all four from Slurm; on SIGUSR1 it lets the trainer save, and
    requeues the job. A run that is finished is not started again, and not another one in its RUN_DIR, unless FORCE=1.
    The command is linted first unless LINT=0.

    The training scripts end in this command with --script: then their own flags stand behind --, what they were called
    with behind a second one, and the settings below are read from the environment.
    """
    from quantctl.launch.plan import Plan

    if script is not None:
        options = {"model": model, "dataset": dataset, "training_config": training_config, "platform": platform}
        plan, dry_run = _of_script(ctx, script, mode, specs, options, processes, words)
    elif run_dir is None:
        raise QuantctlError("no run directory was given", "give --run-dir: where manifest, log and proof go")
    else:
        choose("platform", platform, PLATFORMS)
        plan = Plan(run_dir, processes, platform, tuple(_selector_words(mode, specs)), variables, words, name, stats)
    _start(ctx, plan, dry_run)


def _chosen(plan: Plan) -> dict[str, str]:
    """The selectors that the words ask for. Raises QuantctlError for a word that is none."""
    context = _selectors.make_context("quantctl launch", list(plan.selectors))
    specs = dict(context.params)
    return chosen_values(specs.pop("mode"), specs)


def _start(ctx: click.Context, plan: Plan, dry: bool) -> None:
    from quantctl.launch import rendezvous, slurm
    from quantctl.launch.plan import shown

    chosen = _chosen(plan)
    if plan.stats is not None:
        from quantctl.kernels.measure.wanted import parse_wanted

        parse_wanted(plan.stats)
    if wrong := [variable for variable in plan.variables if variable.find("=") < 1]:
        raise QuantctlError(f"--env {wrong[0]}: which variable, which value?", "write it as NAME=VALUE")
    os.environ |= {**plan.sourced, **dict(variable.split("=", 1) for variable in plan.variables)}
    meet = rendezvous.read(os.environ)
    batch = slurm.is_batch(os.environ)
    through_srun = batch and (meet.nodes > 1 or "SLURMD_NODENAME" not in os.environ)
    words = [*slurm.srun(meet.nodes), *plan.launch()] if through_srun else plan.command(meet)
    if dry:
        sourced = [f"{name}={value}" for name, value in plan.sourced.items()]
        click.echo(shown(["env", *sourced, *words[words[0] == "env" :]] if sourced else words))
        return
    _refuse_misfits(plan, chosen)
    _run(plan, chosen, meet, batch, words)


def _refuse_misfits(plan: Plan, chosen: Mapping[str, str]) -> None:
    """Raises QuantctlError for rules of what the trainer's model does not have, before a node starts anything.

    Without rules there is nothing to look for here: `quantctl exec` looks at what its own node starts.
    """
    from quantctl.spec import SITES, literal

    if any(literal(text, role).rules for role, text in chosen.items() if role in SITES):
        from quantctl.lint.resolved import foreseen

        foreseen(plan.trainer, find_tree(None), chosen)


def _unfit(plan: Plan) -> QuantctlError | None:
    """Why this machine cannot train it, unless nobody wants to know."""
    from quantctl.launch import machine

    if os.environ.get("LINT") != "0":
        try:
            machine.require(plan.trainer, plan.platform, plan.processes, os.environ, plan.instead)
        except QuantctlError as error:
            return error
    return None


def _run(plan: Plan, chosen: Mapping[str, str], meet: Rendezvous, batch: bool, words: Sequence[str]) -> None:
    from quantctl.launch import slurm
    from quantctl.launch.batch import Batch
    from quantctl.runs import process, rundir
    from quantctl.runs.manifest import is_finished, require_same_experiment

    run_dir = Path(plan.run_dir)
    rundir.check(run_dir)
    if os.environ.get("FORCE") != "1":
        if is_finished(run_dir, chosen, plan.trainer):
            output.say(
                f"{run_dir} holds this run, finished and proved: nothing to do. Another RUN_DIR (and CHECKPOINT_PATH) "
                "starts afresh; Megatron-LM trains on with FORCE=1, TRAIN_ITERS=N and --override-opt_param-scheduler"
            )
            return
        require_same_experiment(run_dir, chosen, plan.trainer)
    if words[0] != "srun" and (unfit := _unfit(plan)):
        raise unfit
    if batch:
        slurm.look_at_node(os.environ, plan.platform, plan.processes)
    process.forget_stop(run_dir, meet.node_rank, starts_another=True)
    job = Batch(run_dir) if batch else None
    if os.environ.get("LINT") != "0" and words[0] != "srun":
        _lint(words, plan.name)
    sys.stdout.flush()
    sys.stderr.flush()
    if job is None:
        # exec takes this process's place, so that signals and the exit status are the training's own
        os.execvp(words[0], list(words))
    status = job.run(words)
    if not status:
        job.requeue(plan.saves)
    sys.exit(status)


@click.command()
@selector_options
def _selectors(**_: str | None) -> None:
    """Reads selector words."""
