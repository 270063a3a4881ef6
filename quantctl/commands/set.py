"""`quantctl set`: rewrite selectors, and insert them first where the tree is stock."""

from __future__ import annotations

import click

from quantctl import output
from quantctl.commands._change import change_tree
from quantctl.commands._common import accept_option, chosen_values, selector_options, tree_in_use
from quantctl.errors import DIFFERS


@click.command(short_help="change selectors")
@selector_options
@accept_option
@click.option("--diff", is_flag=True, help="Print what would change; change nothing.")
@click.option("--check", is_flag=True, help="Exit 1 if something would change; change nothing.")
@click.pass_context
def command(
    ctx: click.Context, mode: str | None, accept: tuple[str, ...], diff: bool, check: bool, **specs: str | None
) -> None:
    """Change selectors; what is not named stays as it is. A stock tree is patched in the same operation.

    \b
    quantctl set --linear mxfp8 --qk mxfp4
    quantctl set --mode FA_linear_hifp8
    quantctl set --linear mxfp8:scale=floor,bwd=high_precision --diff

    A function with matrix products that no selector decides, in a file that holds selectors, and a function with a
    selector that the tree's programs replace at run time are refused; --accept-bypass says that they are meant to be.
    """
    tree = tree_in_use(ctx)
    values = chosen_values(mode, specs, tree)
    differs = change_tree(
        tree, values, kind="set", dry=diff or check, show_diff=diff, as_json=ctx.obj["json"], accept=accept
    )
    if check and differs:
        output.say("would change the tree")
        ctx.exit(DIFFERS)
