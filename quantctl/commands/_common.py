"""What several commands share: the tree in use, the selector options, the words for a change."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from quantctl import output
from quantctl.commands._options import Choice, Mode, Spec
from quantctl.errors import QuantctlError
from quantctl.history.record import Operation
from quantctl.modes import selection
from quantctl.outside.masking import masked
from quantctl.tree.selectors import SELECTORS
from quantctl.tree.tree import Tree, find_tree

MODE_HELP = "A mode (quantctl list modes), or selectors: 'linear=mxfp8 qk=mxfp4'."


def tree_in_use(ctx: click.Context) -> Tree:
    """The tree that the options, the environment and the directory choose."""
    return find_tree(ctx.obj["megatron"])


def describe(tree: Tree) -> str:
    return f"{tree.root} (megatron-core {tree.version()}, {tree.found_by})"


def selector_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--mode and one option a selector; `chosen_values` reads them."""
    for role, selector in reversed(SELECTORS.items()):
        kind: dict[str, Any] = {"type": Spec(), "metavar": "SPEC"}
        if selector.choices:
            kind = {"type": Choice(selector.choices, role)}
        what = f"{selector.products[0].upper()}{selector.products[1:]}."
        command = click.option(f"--{role.replace('_', '-')}", role, help=what, **kind)(command)
    about = f"{MODE_HELP} SPEC: see quantctl list formats."
    return click.option("--mode", type=Mode(), metavar="MODE", help=about)(command)


def chosen_values(mode: str | None, specs: Mapping[str, str | None], tree: Tree | None = None) -> dict[str, str]:
    """Role to value in canonical form: what the mode says, or in its place selectors, then what the single options say.

    With `tree`, a value may be a word of the fork's own selectors in it. Raises QuantctlError for an unknown value and
    when nothing was chosen.
    """
    values = selection(mode, lambda role, value: meant(role, value, tree)) if mode else {}
    values |= {role: meant(role, spec, tree) for role, spec in specs.items() if spec is not None}
    if not values:
        options = ", ".join(f"--{role.replace('_', '-')}" for role in SELECTORS)
        raise QuantctlError("no selector was given", f"give --mode, or one of {options}")
    return values


def meant(role: str, value: str, tree: Tree | None = None) -> str:
    """`value` in canonical form, or as it stands where a selector of the tree's fork asks for it."""
    try:
        return SELECTORS[role].canonical(value)
    except QuantctlError as refusal:
        from quantctl.tree.state import read_state

        words = read_state(tree.root).words(role) if tree is not None else set()
        if value in words:
            return value
        if words:
            hint = f"{refusal.hint}; this tree's own code asks for {', '.join(sorted(words))}"
            raise QuantctlError(refusal.message, hint) from None
        raise


def given_values(mode: str | None, specs: Mapping[str, str | None], tree: Tree | None = None) -> dict[str, str] | None:
    """`chosen_values`, or None where nothing was chosen: the tree's own selectors are meant."""
    return chosen_values(mode, specs, tree) if mode or any(spec is not None for spec in specs.values()) else None


def accept_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--accept-bypass, for what computes products that no selector decides."""
    return click.option(
        "--accept-bypass",
        "accept",
        metavar="NAME",
        multiple=True,
        help="A class or function (Class.method) that may go by the selectors. Repeat for more.",
    )(command)


_BEHIND = "quantctl.behind_dashes"


class BehindDashes(click.Command):
    """A command that takes another command line behind `--`, which click would mix with its own arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[_BEHIND] = tuple(args[place + 1 :])
            args = args[:place]
        return super().parse_args(ctx, args)


def behind_dashes(ctx: click.Context) -> tuple[str, ...]:
    """The words behind `--`; none without it."""
    words: tuple[str, ...] = ctx.meta.get(_BEHIND, ())
    return words


def command_line() -> str:
    """The command as the user typed it, but for secrets, for the operation log."""
    return shlex.join(masked(["quantctl", *sys.argv[1:]]))


def unified_diff(path: str, before: bytes, after: bytes) -> str:
    """A diff that patch(1) understands; bytes that are no UTF-8 are shown escaped."""
    old, new = (raw.decode("utf-8", "backslashreplace").splitlines(keepends=True) for raw in (before, after))
    return "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))


def show_recorded(operation: Operation | None) -> None:
    if operation is None:
        output.say("nothing to change: the tree already says this")
    else:
        output.say(f"operation {operation.short} recorded; back to the original bytes: quantctl restore")
