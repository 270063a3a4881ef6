"""`quantctl patch`: insert the selectors into a stock tree, and what else its local layers need."""

from __future__ import annotations

from dataclasses import dataclass

import click

from quantctl import output
from quantctl.commands._change import change_tree
from quantctl.commands._common import describe, tree_in_use
from quantctl.errors import QuantctlError
from quantctl.history.recovery import read_consistent
from quantctl.patches.patch import Patch
from quantctl.patches.registry import PATCHES
from quantctl.tree.state import PatchState, misfits
from quantctl.tree.tree import Tree


@dataclass(frozen=True)
class Entry:
    """One line of `patch --list`."""

    patch: Patch
    state: PatchState
    reason: str | None
    """Why the patch does not fit."""

    def data(self) -> dict[str, object]:
        patch = self.patch
        return {
            "name": patch.name,
            "state": self.state.value,
            "reason": self.reason,
            "required": patch.required,
            "file": patch.file,
            "releases": patch.releases,
            "why": patch.why,
        }


def _entries(tree: Tree) -> list[Entry]:
    state = read_consistent(tree)
    unfit = {name: error.message for name, error in misfits(state).items()}
    return [
        Entry(
            patch,
            PatchState.DOES_NOT_FIT if patch.name in unfit else state.patches[patch.name],
            unfit.get(patch.name),
        )
        for patch in PATCHES
    ]


def _show_list(ctx: click.Context) -> None:
    tree = tree_in_use(ctx)
    entries = _entries(tree)
    if ctx.obj["json"]:
        output.data(
            {"tree": tree.root, "megatron_core": tree.version(), "patches": [entry.data() for entry in entries]}
        )
        return
    output.say(f"tree: {describe(tree)}")
    rows = [["patch", "in this tree", "releases", "why"]]
    rows += [[entry.patch.name, entry.state.value, entry.patch.releases, entry.patch.why] for entry in entries]
    click.echo(output.fitted(rows, 3))
    for entry in entries:
        if entry.reason:
            roles = entry.patch.roles
            consequence = f"so there is no selector for {', '.join(roles)}" if roles else "left out"
            output.say(f"{entry.patch.name} does not fit ({consequence}): {entry.reason}")


@click.command(short_help="insert the selectors into a stock tree")
@click.option("--diff", is_flag=True, help="Print what would change; change nothing.")
@click.option("--list", "show_list", is_flag=True, help="Explain every patch and its state in this tree.")
@click.pass_context
def command(ctx: click.Context, diff: bool, show_list: bool) -> None:
    """Insert the selectors into a stock tree, all set to none: it computes what it computed before.

    Patches that only make the local layers usable (multi-latent attention, sequence parallelism, ...) go in where the
    release needs them and where they fit.
    """
    if show_list:
        if diff:
            raise QuantctlError("--list and --diff exclude each other", "give one of them")
        _show_list(ctx)
    else:
        change_tree(tree_in_use(ctx), {}, kind="patch", dry=diff, show_diff=diff, as_json=ctx.obj["json"])
