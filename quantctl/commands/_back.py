"""What restore and undo share: going back, and telling about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from quantctl import output
from quantctl.backup import Operation
from quantctl.commands._common import command_line, describe, tree_in_use, unified_diff
from quantctl.rollback import EditedSince, Goal, go_back
from quantctl.transaction import Session, open_tree


def run(
    ctx: click.Context,
    choose: Callable[[Session, Sequence[Operation]], Goal | None],
    *,
    force: bool,
    nothing: str,
) -> None:
    """Go back to what `choose` makes of the history; `nothing` is said when there is nowhere to go."""
    tree = tree_in_use(ctx)
    output.say(f"tree: {describe(tree)}")
    operation = saved = None
    with open_tree(tree) as session:
        operations = session.backup.operations()
        goal = choose(session, operations)
        if goal is not None:
            try:
                operation, saved = go_back(session, goal, operations, command_line(), force=force)
            except EditedSince as refusal:
                for edit in refusal.edited:
                    output.say(unified_diff(edit.path, edit.ours, edit.theirs))
                raise
    if saved is not None:
        for record in saved.files:
            output.say(f"kept: {session.backup.repository.shell('show', f'{saved.id}:after/{record.path}')}")
    paths = [record.path for record in operation.files] if operation else []
    if ctx.obj["json"]:
        output.data({"tree": tree.root, "operation": operation and operation.id, "files": paths})
        return
    for path in paths:
        click.echo(f"restored  {path}")
    output.say(f"operation {operation.short} recorded; quantctl undo takes it back" if operation else nothing)
