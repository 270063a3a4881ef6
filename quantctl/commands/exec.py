"""`quantctl exec`: run a command on a staged tree with its own selectors, and prove what it used."""

from __future__ import annotations

import os
from pathlib import Path

import click

from quantctl import output
from quantctl.commands._common import describe, given_values, selector_options, tree_in_use
from quantctl.errors import QuantctlError, quoted
from quantctl.modes import NAMED
from quantctl.tree.state import read_state
from quantctl.tree.tree import Tree


@click.command(short_help="run a command on a staged tree", context_settings={"allow_interspersed_args": False})
@selector_options
@click.option("--run-dir", type=click.Path(path_type=Path), help="Where the run leaves its files; default runs/<time>.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="Machines of this run, which share --run-dir.")
@click.option("--node-rank", type=click.IntRange(min=0), default=0, help="Which of them this is; 0 writes the proof.")
@click.option("--stats", metavar="every=N", help="Record what the formats do to the products, every N steps.")
@click.option("--prune", is_flag=True, help="Remove the staged trees that no run holds.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD ...")
@click.pass_context
def command(
    ctx: click.Context,
    mode: str | None,
    run_dir: Path | None,
    nodes: int,
    node_rank: int,
    stats: str | None,
    prune: bool,
    arguments: tuple[str, ...],
    **specs: str | None,
) -> None:
    """Copy the tree, set these selectors in the copy, run CMD on it. Without any, the tree's own hold.

    \b
    quantctl exec --mode FA_linear_mxfp8 -- \\
        torchrun --nproc-per-node 8 pretrain_gpt.py ...

    The tree itself is not touched, and a later `set` does not change the run. PYTHONPATH and MEGATRON_LM_PATH name the
    copy; Python files of the tree on the command line are replaced by their copies. The run directory gets
    manifest.json, log.txt and proof.json. Exit status: the command's own, or 1 when it succeeded without having used
    the formats that its selectors name.
    """
    from quantctl.runs import stage

    if prune:
        for path in stage.prune():
            click.echo(f"removed  {path}")
        if not arguments:
            return
    if not arguments:
        raise QuantctlError("no command was given", "write it behind --: quantctl exec --mode bf16 -- python train.py")
    if arguments[0] in NAMED:
        raise QuantctlError(f"{quoted(arguments[0])} is a mode, and no command", f"give it as --mode {arguments[0]}")
    if node_rank >= nodes:
        raise QuantctlError(f"--node-rank {node_rank} of --nodes {nodes}", "ranks count from 0")
    if nodes > 1 and run_dir is None:
        raise QuantctlError("several nodes need one run directory", "give --run-dir, a path that all of them share")
    if stats is not None:
        from quantctl.kernels.measure.wanted import VARIABLE, parse_wanted

        parse_wanted(stats)
        os.environ[VARIABLE] = stats
    tree = tree_in_use(ctx)
    values = given_values(mode, specs, tree)
    output.say(f"tree: {describe(tree)}")
    from quantctl.lint.resolved import foreseen
    from quantctl.runs.execution import execute

    table = foreseen(arguments, tree, _own(tree) if values is None else values)
    ctx.exit(execute(tree, values or {}, arguments, run_dir, nodes, node_rank, table))


def _own(tree: Tree) -> dict[str, str]:
    """What the tree's selectors say. Raises QuantctlError for a stock tree, which has none."""
    state = read_state(tree.root)
    values = state.values()
    if not values and not state.places:
        raise QuantctlError(
            "no selector was given, and this tree is stock: it has none of its own",
            "give --mode, or set the tree's: quantctl set --linear mxfp8",
        )
    return values
