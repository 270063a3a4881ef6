"""`quantctl set`: rewrite selectors, and insert them first where the tree is stock."""

from __future__ import annotations

import click

from quantctl import output
from quantctl.commands._change import change_tree
from quantctl.commands._common import chosen_values, selector_options, tree_in_use
from quantctl.exits import DIFFERS


@click.command(short_help="change selectors")
@selector_options
@click.option("--diff", is_flag=True, help="Print what would change; change nothing.")
@click.option("--check", is_flag=True, help="Exit 1 if something would change; change nothing.")
@click.pass_context
def command(ctx: click.Context, mode: str | None, diff: bool, check: bool, **specs: str | None) -> None:
    """Change selectors; what is not named stays as it is. A stock tree is patched in the same operation.

    \b
    quantctl set --linear mxfp8 --qk mxfp4
    quantctl set --mode FA_linear_hifp8
    quantctl set --linear mxfp8:scale=floor,bwd=high_precision --diff
    """
    values = chosen_values(mode, specs)
    differs = change_tree(
        tree_in_use(ctx), values, kind="set", dry=diff or check, show_diff=diff, as_json=ctx.obj["json"]
    )
    if check and differs:
        output.say("would change the tree")
        ctx.exit(DIFFERS)
