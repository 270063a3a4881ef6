"""What click has to complain about, in the words of every other refusal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from quantctl.commands._options import Mode, Spec, TooManyWords
from quantctl.errors import QuantctlError, near, quoted
from quantctl.modes import NAMED


def _is_megatrons(option: str) -> bool:
    from quantctl.lint.megatron_flags import releases, table

    return any(option in table(release) for release in releases()[-2:])


def _takes_a_command(command: click.Command) -> bool:
    """Whether words behind `--` go on to another program."""
    return any("--" in (parameter.metavar or "") for parameter in command.params)


def _option(error: click.NoSuchOption, path: str) -> QuantctlError:
    name = error.option_name
    message = f"{path} has no option {quoted(name)}"
    command = error.ctx.command if error.ctx else None
    if command is not None and _takes_a_command(command) and _is_megatrons(name):
        return QuantctlError(message, f"it is a flag of Megatron's: write it behind --, as in {path} ... -- {name} ...")
    meant = near(name, [word for parameter in command.params for word in parameter.opts] if command else [])
    guess = f"did you mean {' or '.join(meant)}? " if meant else ""
    return QuantctlError(message, f"{guess}{path} --help lists the options")


def _as_option(words: Sequence[str], command: click.Command) -> str | None:
    """The option that words without one were meant for: by its name, or by what it takes."""
    from quantctl.tree.tree import is_tree

    first, *rest = words
    name, _, value = first.partition("=")
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        if f"--{name.replace('_', '-')}" in option.opts:
            following = rest[:1] if not value and not option.is_flag else []
            return shlex.join([option.opts[0], *filter(None, [value]), *following])
        choices = option.type.choices if isinstance(option.type, click.Choice) else ()
        if first in choices or (isinstance(option.type, Mode) and first in NAMED):
            return f"{option.opts[0]} {first}"
    return f"--megatron {shlex.quote(first)}" if is_tree(Path(first)) else None


def _too_many(error: TooManyWords, ctx: click.Context) -> QuantctlError:
    message = f"{ctx.command_path} takes no {quoted(' '.join(error.words))}"
    if (option := _as_option(error.words, ctx.command)) is not None:
        return QuantctlError(message, f"did you mean {option}?")
    group = ctx.parent.command if ctx.parent else None
    if isinstance(group, click.Group) and error.words[0] in group.list_commands(ctx):
        return QuantctlError(message, f"one command at a time: {ctx.command_path}, then quantctl {error.words[0]}")
    return QuantctlError(message, f"{ctx.command_path} --help explains it")


def _values(parameter: click.Parameter | None, path: str) -> str:
    """What to give a parameter."""
    kind = parameter.type if parameter else None
    if isinstance(kind, click.Choice):
        return f"choose from: {', '.join(map(str, kind.choices))}"
    if isinstance(kind, Mode):
        return "quantctl list modes shows all, such as FA_linear_mxfp8"
    if isinstance(kind, Spec):
        return "quantctl list formats shows all, such as mxfp8"
    return f"{path} --help explains it"


def refusal(error: click.ClickException) -> QuantctlError:
    """The error as quantctl says it: what is wrong, then what to do next."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    path = ctx.command_path if ctx else "quantctl"
    if isinstance(error, click.NoSuchOption):
        return _option(error, path)
    if isinstance(error, TooManyWords) and ctx is not None:
        return _too_many(error, ctx)
    message, parameter = error.format_message().rstrip("."), None
    if isinstance(error, click.MissingParameter) and error.param is not None and ctx is not None:
        parameter = error.param
        is_option = parameter.param_type_name == "option"
        message = f"{path} needs {parameter.opts[0] if is_option else parameter.make_metavar(ctx)}"
    elif isinstance(error, click.BadOptionUsage) and ctx is not None:
        parameter = next((each for each in ctx.command.params if error.option_name in each.opts), None)
    return QuantctlError(message[:1].lower() + message[1:], _values(parameter, path))
