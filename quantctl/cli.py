"""The command line: finds a command's module only when it is called, so that `--help` and `check` stay light."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from quantctl.exits import REFUSED, exit_with

COMMANDS = {
    "check": "show every selector: value, file:line, the tree's version and git state",
    "patch": "insert the selectors into a stock tree, all set to none",
    "set": "change selectors (patches a stock tree first)",
    "restore": "back to the bytes before quantctl first touched the tree, or before an operation",
    "undo": "take the last operation back",
    "log": "the operations on the tree",
    "exec": "run a command on a staged tree with its own selectors, and prove what it used",
    "smoke": "build and run a reduced model on the tree: structure, loss, what was quantized",
    "lint": "check a training command or script before it runs",
    "launch": "start a trainer on every device and node of this run; what the scripts end in",
    "list": "the registry: models, datasets, modes, training configs",
    "run": "build and run one training script",
    "bench": "measure the kernels and a training step",
    "generate": "write the 60 training scripts",
    "sweep": "run a set of modes, models and seeds, and compare them",
    "inspect": "what a format does to one saved tensor",
    "report": "compare runs: loss gap, speed, memory, what was quantized",
    "data": "raw text to Megatron's indexed dataset",
}


class LazyGroup(click.Group):
    """A group whose commands are the `command` objects of quantctl.commands.<name>."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"quantctl.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--megatron",
    type=click.Path(path_type=Path),
    help="The tree: a directory that holds megatron/core. Default: MEGATRON_LM_PATH, else the nearest parent of the "
    "current directory that is a tree, else the installed megatron-core.",
)
@click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
@click.version_option(package_name="quantctl")
@click.pass_context
def cli(ctx: click.Context, megatron: Path | None, as_json: bool) -> None:
    """Choose, prove and compare the number formats of Megatron's matrix products."""
    ctx.obj = {"megatron": megatron, "json": as_json}


def _run() -> int | None:
    try:
        status: int | None = cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except click.ClickException as error:
        error.show()
        status = REFUSED
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status


def _interrupt(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line and exit with 0, 1 (differs), 2 (refused), 3 (a bug here) or 130 (interrupted)."""
    # a scheduler's SIGTERM and a lost terminal are a Ctrl-C: what a command started ends too, what is done stays
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    # a path is bytes: what is no text in it is printed as it is
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    exit_with(_run)


if __name__ == "__main__":
    main()
