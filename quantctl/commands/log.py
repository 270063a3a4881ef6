"""`quantctl log`: the operations on the tree, newest first."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from quantctl import output
from quantctl.commands._common import describe, tree_in_use
from quantctl.history.backup import backup_of
from quantctl.history.record import Operation


def _summary(operation: Operation) -> str:
    values = " ".join(f"{role}={value}" for role, value in operation.selectors.items())
    return values or "(stock)"


@click.command(short_help="the operations on the tree")
@click.pass_context
def command(ctx: click.Context) -> None:
    """List what quantctl did to the tree, newest first. Each line is a commit that plain git can read too."""
    tree = tree_in_use(ctx)
    backup = backup_of(tree)
    operations = backup.operations()
    if ctx.obj["json"]:
        output.data(
            {
                "tree": tree.root,
                "repository": backup.repository.directory,
                "ref": backup.ref,
                "operations": [asdict(operation) for operation in operations],
            }
        )
        return
    output.say(f"tree: {describe(tree)}")
    if not operations:
        output.say("no operations yet")
        return
    rows = [
        [
            operation.short,
            datetime.fromtimestamp(operation.time).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            operation.kind,
            _summary(operation),
            output.printable(operation.command),
        ]
        for operation in operations
    ]
    click.echo(output.fitted(rows, 3))
    output.say(f"the same in git: {backup.repository.shell('log', '--stat', backup.ref)}")
