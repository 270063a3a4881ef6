"""`quantctl launch`: start a trainer on every device and node of this run; what the training scripts end in."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from quantctl import output
from quantctl.commands._common import chosen_values, selector_options
from quantctl.errors import QuantctlError
from quantctl.exits import FINE

_EMBEDDED = ("-m", "quantctl.pretrain")


def _python() -> str:
    return os.environ.get("PYTHON") or sys.executable


def _quantctl() -> str:
    return os.environ.get("QUANTCTL") or str(Path(sys.executable).with_name("quantctl"))


def _shown(command: Sequence[str]) -> str:
    """A flag with its values a line, quoted: the whole can be pasted into a shell."""
    text = shlex.quote(command[0])
    for word in command[1:]:
        breaks = (len(word) > 2 and word.startswith("--")) or word == "-m" or word in (_python(), _quantctl())
        breaks = breaks or word.endswith("/pretrain_gpt.py")
        text += (" \\\n    " if breaks else " ") + shlex.quote(word)
    return text


def _selector_words(mode: str | None, specs: Mapping[str, str | None]) -> list[str]:
    given = {"mode": mode, **specs}
    return [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def _command(
    variables: Sequence[str], run_dir: str, processes: int, selectors: Sequence[str], trainer: Sequence[str]
) -> list[str]:
    """What runs on this node: `quantctl exec` around torchrun around the trainer."""
    from quantctl import rendezvous

    meet = rendezvous.read(os.environ)
    place = ["--nodes", str(meet.nodes), "--node-rank", str(meet.node_rank)] if meet.nodes > 1 else []
    # the embedded trainer alone needs no torchrun; Megatron-LM's own, also behind an adaptor, wants its variables
    alone = meet.nodes == 1 and processes == 1 and tuple(trainer[:2]) == _EMBEDDED
    starter = [] if alone else meet.torchrun(processes)
    through = [_quantctl(), "exec", "--run-dir", run_dir, *selectors, *place, "--"]
    return [*(["env", *variables] if variables else []), *through, _python(), *starter, *trainer]


def _lint(command: Sequence[str], name: str | None) -> None:
    """Raises QuantctlError when the command has errors; they are printed."""
    named = ["--name", name] if name else []
    done = subprocess.run([_quantctl(), "lint", "--errors-only", *named, "--", *command], stdout=sys.stderr)
    if done.returncode:
        raise QuantctlError("lint found errors in this command: nothing was started", "LINT=0 starts it all the same")


class _Batch:
    """A Slurm job's batch script, from now on: SIGUSR1 means save, end and requeue; SIGTERM save and end."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.asked: list[int] = []
        self.child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self.asked.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        from quantctl.process import STOP

        if self.child is None:
            return
        try:
            (self.run_dir / STOP).touch()
        except OSError:
            # a full disk, or a file system that is away: srun and `quantctl exec` take a SIGTERM as the same wish
            self.child.terminate()

    def run(self, command: Sequence[str]) -> int:
        """The exit status; a wish that came before there was anything to end ends it before it starts."""
        from quantctl.privacy import as_private_as_tree_in_use

        if self.asked:
            output.say("asked to stop before anything was started")
            return FINE
        as_private_as_tree_in_use()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.child = subprocess.Popen(command)
        if self.asked:
            self._pass_on()
        status = self.child.wait()
        return status if status >= 0 else 128 - status

    def requeue(self, trainer: Sequence[str]) -> None:
        """Once the run has ended well, if that is wished."""
        from quantctl import slurm

        if signal.SIGUSR1 not in self.asked:
            return
        if "--save" not in trainer:
            output.say("stopped by SIGUSR1; no --save, so there is nothing that a requeued job could continue from")
            return
        job = slurm.own_name(os.environ)
        saved = ", checkpoint saved" if self.child else ""
        output.say(f"stopped by SIGUSR1{saved}: job {job} is requeued")
        slurm.requeue(job)


@click.command(short_help="start a trainer on every device and node of this run")
@selector_options
@click.option("--run-dir", required=True, help="Where the run leaves its files; nodes share it.")
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Processes a node: its GPUs or NPUs.")
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="Set for the run; any number of times.")
@click.option("--name", help="What the run is called; lint compares it with the formats.")
@click.option("--dry-run", is_flag=True, help="Print the command and do nothing.")
@click.argument("trainer", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- TRAINER FLAGS...")
def command(
    mode: str | None,
    run_dir: str,
    processes: int,
    variables: tuple[str, ...],
    name: str | None,
    dry_run: bool,
    trainer: tuple[str, ...],
    **specs: str | None,
) -> None:
    """Start TRAINER with torchrun through `quantctl exec`. The training scripts end in this command.

    Several nodes: start it on each with NNODES, NODE_RANK, MASTER_ADDR (and MASTER_PORT) in the environment. In a Slurm
    job it starts itself on every node with srun and takes all four from Slurm; on SIGUSR1 it lets the trainer save, and
    requeues the job. A run that is finished is not started again, and not another one in its RUN_DIR, unless FORCE=1.
    The command is linted first unless LINT=0.
    """
    from quantctl import process, rendezvous, slurm
    from quantctl.manifest import is_finished, require_same_experiment

    chosen = chosen_values(mode, specs)
    if wrong := [variable for variable in variables if variable.find("=") < 1]:
        raise QuantctlError(f"--env {wrong[0]}: which variable, which value?", "write it as NAME=VALUE")
    os.environ |= dict(variable.split("=", 1) for variable in variables)
    words = _command(variables, run_dir, processes, _selector_words(mode, specs), trainer)
    batch = slurm.is_batch(os.environ)
    meet = rendezvous.read(os.environ)
    if batch and (meet.nodes > 1 or "SLURMD_NODENAME" not in os.environ):
        # this very command once more, as one task a node
        words = [*slurm.srun(meet.nodes), _python(), "-m", "quantctl.cli", *sys.argv[1:]]
    if dry_run:
        click.echo(_shown([word for word in words if word != "--dry-run"]))
        return
    if os.environ.get("FORCE") != "1":
        if is_finished(Path(run_dir), chosen, trainer):
            output.say(
                f"{run_dir} holds this run, finished and proved: nothing to do. Another RUN_DIR (and CHECKPOINT_PATH) "
                "starts afresh; Megatron-LM trains on with FORCE=1, TRAIN_ITERS=N and --override-opt_param-scheduler"
            )
            return
        require_same_experiment(Path(run_dir), chosen, trainer)
    if batch:
        slurm.look_at_node(os.environ, os.environ.get("PLATFORM") or "cuda", processes)
    process.forget_stop(Path(run_dir), meet.node_rank, starts_another=True)
    job = _Batch(Path(run_dir)) if batch else None
    if os.environ.get("LINT") != "0" and words[0] != "srun":
        _lint(words, name)
    sys.stdout.flush()
    sys.stderr.flush()
    if job is None:
        # exec takes this process's place, so that signals and the exit status are the training's own
        os.execvp(words[0], words)
    status = job.run(words)
    if not status:
        job.requeue(trainer)
    sys.exit(status)
