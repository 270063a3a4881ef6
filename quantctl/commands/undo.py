"""`quantctl undo`: back to the bytes before the last operation."""

from __future__ import annotations

import click

from quantctl import rollback
from quantctl.commands import _back


@click.command(short_help="take the last operation back")
@click.option("--force", is_flag=True, help="Go back although files were edited since; the log keeps their bytes.")
@click.pass_context
def command(ctx: click.Context, force: bool) -> None:
    """Take the last operation back; once more takes the one before it back.

    An undo is an operation of its own: quantctl restore --to ID, with the undo's ID, takes it back.
    """
    _back.run(ctx, lambda _, operations: rollback.undo(operations), force=force, nothing="nothing to undo on this tree")
