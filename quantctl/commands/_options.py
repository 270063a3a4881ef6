"""What every command shares: --megatron and --json before and behind it, choices, specs, modes, and completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click import shell_completion
from click.shell_completion import CompletionItem

from quantctl.errors import QuantctlError, quoted, unknown
from quantctl.modes import NAMED, choices, selection
from quantctl.spec import ALIASES, FORMATS, NONE

_MEGATRON = "Megatron tree: a directory that holds megatron/core.  [default: MEGATRON_LM_PATH, else the nearest parent "
_MEGATRON += "of the current directory that is a tree, else the installed megatron-core]"


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Into ctx.obj, which a command shares with the group that it stands in: what is said behind a command wins."""
    settings = ctx.ensure_object(dict)
    name = str(parameter.name)
    settings[name] = value or settings.get(name, value)


def shared() -> list[click.Option]:
    """The options that stand before a command or behind it; their values are in ctx.obj."""
    kind: dict[str, Any] = {"expose_value": False, "callback": _remember}
    return [
        click.Option(["--megatron"], type=click.Path(path_type=Path), help=_MEGATRON, **kind),
        click.Option(["--json"], is_flag=True, help="Print data as JSON (docs/json.md).", **kind),
    ]


class TooManyWords(click.UsageError):
    """A command got words that it has no argument for."""

    def __init__(self, words: Sequence[str], ctx: click.Context) -> None:
        super().__init__(f"takes no {' '.join(words)}", ctx)
        self.words = words


class Context(click.Context):
    """click's; every error of reading its words knows it, and words that are too many are a `TooManyWords`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.allow_extra_args = True

    @contextmanager
    def scope(self, cleanup: bool = True) -> Iterator[click.Context]:
        try:
            with super().scope(cleanup) as ctx:
                yield ctx
                if self.args and not self.resilient_parsing and not isinstance(self.command, click.Group):
                    raise TooManyWords(self.args, self)
        except click.UsageError as error:
            error.ctx = error.ctx or self
            raise


def with_shared(command: click.Command) -> click.Command:
    """The command, and those below it, with `shared` and with a `Context`."""
    command.context_class = Context
    if not any(parameter.name == "megatron" for parameter in command.params):
        command.params += shared()
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        with_shared(below)
    return command


class Group(click.Group):
    """A group that tells which command a misspelt one may have been."""

    context_class = Context

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            listing = f"{ctx.command_path} --help explains them"
            raise unknown("command", name, self.list_commands(ctx), listing)
        return super().resolve_command(ctx, args)


class Choice(click.Choice[str]):
    """click's, with the words of `unknown`: --launcher slrum may have been slurm."""

    def __init__(self, choices: Sequence[str], kind: str | None = None) -> None:
        super().__init__(list(choices))
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            raise unknown(self.kind or (param.opts[0] if param else "value"), str(value), self.choices)
        return str(value)


def _items(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Mode(click.ParamType):
    """A mode or selectors, as text, or a list of them with `many`; what selectors say is not looked at yet."""

    name = "mode"

    def __init__(self, many: bool = False) -> None:
        self.many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for one in choices(value) if self.many else [value]:
            selection(one, lambda _, value: value)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        front, comma, last = incomplete.rpartition(",") if self.many else ("", "", incomplete)
        return _items([f"{front}{comma}{mode}" for mode in NAMED], f"{front}{comma}{last}")


class Spec(click.ParamType):
    """A format spec as text: a fork's tree may have words of its own, so it is looked at when the tree is known."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in NAMED and value not in (NONE, *ALIASES, *FORMATS):
            formats = dict.fromkeys(spec for spec in NAMED[value].values() if spec != NONE)
            takes_modes = ctx is not None and any(isinstance(each.type, Mode) for each in ctx.command.params)
            raise QuantctlError(
                f"{quoted(value)} is a mode, and {param.opts[0] if param else 'this'} takes a format",
                f"give {', '.join(formats)}" + f", or --mode {value}" * takes_modes,
            )
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from quantctl.commands._literals import completions

        return [CompletionItem(text) for text in completions(incomplete, str(param.name))]


class BashComplete(shell_completion.BashComplete):
    """click's, for words such as mxfp8:scale=floor and --linear=mxfp8, which bash breaks at : and = and click does not.

    The words are those of the line as it stands; bash gets what takes the place of its own last piece.
    """

    source_template = shell_completion.BashComplete.source_template.replace(
        "env COMP_WORDS=", 'env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" COMP_WORDS='
    )
    _known = 0
    """Characters of a value that bash does not replace."""

    def get_completion_args(self) -> tuple[list[str], str]:
        if not (line := os.environ.get("COMP_LINE")):
            return super().get_completion_args()
        words = shell_completion.split_arg_string(line)
        last = "" if line[-1:].isspace() else words.pop()
        value = last.partition("=")[2] if last.startswith("--") else last
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set(":=")
        self._known = 1 + max((value.rfind(sign) for sign in breaks), default=-1)
        return words[1:], last

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value[self._known :] if item.type == 'plain' else item.value}"


shell_completion.add_completion_class(BashComplete)


def completed_by(names: Callable[[click.Context], Sequence[str]]) -> Callable[..., list[CompletionItem]]:
    """A shell_complete callback from what lists the names; a tree that cannot be read completes nothing."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return _items(names(ctx), incomplete)
        except (QuantctlError, OSError):
            return []

    return complete
