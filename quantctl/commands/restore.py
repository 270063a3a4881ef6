"""`quantctl restore`: back to the owner's bytes, or to those before an operation."""

from __future__ import annotations

from collections.abc import Sequence

import click

from quantctl.commands import _back
from quantctl.commands._common import tree_in_use
from quantctl.commands._options import completed_by
from quantctl.errors import QuantctlError
from quantctl.history import rollback
from quantctl.history.backup import backup_of
from quantctl.history.record import Operation
from quantctl.history.transaction import Session
from quantctl.tree.state import PatchState, read_state


def _refuse_without_history(session: Session) -> None:
    """A patched tree whose history is gone cannot be restored from it."""
    if PatchState.APPLIED in read_state(session.tree.root).patches.values():
        version = session.tree.version()
        raise QuantctlError(
            "the tree is patched, but its history is gone: it was moved or copied, or its backup was removed",
            "bring the stock files back with git, or: pip install --force-reinstall --no-deps "
            f"megatron-core=={version}; quantctl check shows which lines are quantctl's",
        )


def _operations(ctx: click.Context) -> list[str]:
    return [operation.short for operation in backup_of(tree_in_use(ctx)).operations()]


@click.command(short_help="back to the original bytes")
@click.option(
    "--to",
    "operation",
    metavar="ID",
    shell_complete=completed_by(_operations),
    help="Go back to the bytes before this operation of quantctl log.",
)
@click.option("--force", is_flag=True, help="Go back although files were edited since; the log keeps their bytes.")
@click.pass_context
def command(ctx: click.Context, operation: str | None, force: bool) -> None:
    """Put back the bytes and permissions from before quantctl first touched the tree, or from before an operation.

    Before an undo, that is its redo: quantctl restore --to ID, with the undo's ID. Refuses, and shows the difference,
    when a file was edited after quantctl wrote it.
    """

    def choose(session: Session, operations: Sequence[Operation]) -> rollback.Goal:
        if not operations:
            _refuse_without_history(session)
        return rollback.before(operations, operation) if operation else rollback.original(operations, session.tree.root)

    _back.run(ctx, choose, force=force, nothing="nothing to restore: the tree has its original bytes")
