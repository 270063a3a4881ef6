"""What restore and undo share: going back, and telling about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from quantctl import output
from quantctl.commands._common import command_line, describe, tree_in_use, unified_diff
from quantctl.history.record import Operation
from quantctl.history.rollback import EditedSince, Goal, go_back, undo
from quantctl.history.transaction import Session, open_tree
from quantctl.patches.registry import PATCHES
from quantctl.tree.state import PatchState, read_state
from quantctl.tree.tree import Tree


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
    further = False
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
            now = [each for each in (operation, saved) if each is not None] + list(operations)
            further = operation is not None and undo(now) is not None
    if saved is not None:
        for record in saved.files:
            output.say(f"kept: {session.backup.repository.shell('show', f'{saved.id}:after/{record.path}')}")
    paths = [record.path for record in operation.files] if operation else []
    if ctx.obj["json"]:
        output.data({"tree": tree.root, "operation": operation and operation.id, "files": paths})
        return
    for path in paths:
        click.echo(f"restored  {path}")
    output.say(nothing if operation is None else _recorded(operation, further=further))
    if left := [] if goal is None or goal.kind != "restore" else _left_patched(tree):
        output.say(f"note: {', '.join(left)} hold quantctl's patches, but this history knows nothing of them")


def _recorded(operation: Operation, *, further: bool) -> str:
    """What was recorded, and which command leads where from here."""
    said = f"operation {operation.short} recorded"
    if operation.kind != "undo":
        return f"{said}; quantctl undo takes it back"
    redo = f"to redo it: quantctl restore --to {operation.short}"
    return f"{said}: it took back {operation.target[:10]}; {'quantctl undo goes one further back; ' * further}{redo}"


def _left_patched(tree: Tree) -> list[str]:
    """Files that hold patches still."""
    state = read_state(tree.root)
    return sorted({patch.file for patch in PATCHES if state.patches[patch.name] is PatchState.APPLIED})
