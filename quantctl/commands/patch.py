"""`quantctl patch`: insert the selectors into a stock tree."""

from __future__ import annotations

import click

from quantctl.commands._change import change_tree
from quantctl.commands._common import tree_in_use


@click.command(short_help="insert the selectors into a stock tree")
@click.option("--diff", is_flag=True, help="Print what would change; change nothing.")
@click.pass_context
def command(ctx: click.Context, diff: bool) -> None:
    """Insert the selectors into a stock tree, all set to none: it computes what it computed before."""
    change_tree(tree_in_use(ctx), {}, kind="patch", dry=diff, show_diff=diff, as_json=ctx.obj["json"])
