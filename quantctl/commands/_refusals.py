"""What click has to complain about, in the words of every other refusal."""

from __future__ import annotations

import click

from quantctl.commands._options import Mode
from quantctl.errors import QuantctlError, near, quoted


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


def refusal(error: click.ClickException) -> QuantctlError:
    """The error as quantctl says it: what is wrong, then what to do next."""
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "quantctl"
    if isinstance(error, click.NoSuchOption):
        return _option(error, path)
    message = error.format_message().rstrip(".")
    hint = f"{path} --help explains it"
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx is not None:
        name = error.param.make_metavar(error.ctx)
        if error.param.param_type_name == "option":
            name = error.param.opts[0]
        message = f"{path} needs {name}"
        if isinstance(error.param.type, click.Choice):
            hint = f"choose from: {', '.join(map(str, error.param.type.choices))}"
        elif isinstance(error.param.type, Mode):
            hint = "quantctl list modes shows all, such as FA_linear_mxfp8"
    return QuantctlError(message[:1].lower() + message[1:], hint)
