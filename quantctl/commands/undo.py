"""`quantctl undo`: back to the bytes before the last operation that is not undone yet."""

from __future__ import annotations

import click

from quantctl.commands import _back
from quantctl.history import rollback


@click.command(short_help="take the last operation back")
@click.option("--force", is_flag=True, help="Go back although files were edited since; the log keeps their bytes.")
@click.pass_context
def command(ctx: click.Context, force: bool) -> None:
    """Take the last operation back; once more takes the one before it back, and so on to the first one.

    An undo is never undone by the next undo. The redo is quantctl restore --to ID, with the undo's ID: back to the
    bytes before it.
    """
    _back.run(ctx, lambda _, operations: rollback.undo(operations), force=force, nothing="nothing to undo on this tree")
