"""The command line: finds a command's module only when it is called, so that `--help` and `check` stay light."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from quantctl.commands._options import Group, shared, with_shared
from quantctl.errors import REFUSED, exit_with

GROUPS = {
    "Tree": {
        "check": "show every selector: value, file:line, the tree's version and git state",
        "set": "change selectors (patches a stock tree first)",
        "patch": "insert the selectors into a stock tree, all set to none",
        "smoke": "build and run a reduced model on the tree: structure, loss, what was quantized",
        "log": "the operations on the tree",
        "undo": "take the last operation back",
        "restore": "back to the bytes before quantctl first touched the tree, or before an operation",
    },
    "Train": {
        "list": "models, datasets, modes, formats, training configs, platforms",
        "run": "build and run one training script",
        "exec": "run a command on a staged tree with its own selectors, and prove what it used",
        "lint": "check a training command or script before it runs",
        "data": "raw text to Megatron's indexed dataset",
    },
    "Compare": {
        "sweep": "run a set of modes, models and seeds, and compare them",
        "report": "compare runs: loss gap, speed, memory, what was quantized",
        "inspect": "what a format does to one saved tensor",
        "bench": "measure the kernels and a training step",
    },
    "For scripts": {
        "launch": "start a trainer on every device and node of this run; what the scripts end in",
        "generate": "write the 60 training scripts",
    },
}
"""What a command is for -> its name -> what it does."""
COMMANDS = {name: what for group in GROUPS.values() for name, what in group.items()}


class LazyGroup(Group):
    """A group whose commands are the `command` objects of quantctl.commands.<name>."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"quantctl.commands.{cmd_name.replace('-', '_')}")
        return with_shared(module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, commands in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl(list(commands.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """click's would import every command for its help."""
        named = [CompletionItem(name, help=what) for name, what in COMMANDS.items() if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, params=shared(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quantctl")
def cli() -> None:
    """Choose, prove and compare the number formats of Megatron's matrix products.

    --megatron and --json may stand before a command or behind it.
    """


def _run(arguments: Sequence[str] | None = None) -> int | None:
    try:
        status: int | None = cli.main(arguments, prog_name="quantctl", standalone_mode=False)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = REFUSED
    except click.ClickException as error:
        from quantctl.commands._refusals import refusal

        raise refusal(error) from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status


def call(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (by default this process's) and exit: what `main` does beside what is the process's."""
    exit_with(lambda: _run(arguments))


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
    call()


if __name__ == "__main__":
    main()
