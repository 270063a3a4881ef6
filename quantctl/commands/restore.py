"""`quantctl restore`: back to the bytes before quantctl first touched the tree."""

from __future__ import annotations

from pathlib import Path

import click

from quantctl import output
from quantctl.backup import FileRecord, original_files, written_files
from quantctl.commands._common import command_line, describe, tree_in_use, unified_diff
from quantctl.errors import QuantctlError
from quantctl.files import mode_of
from quantctl.transaction import Change, Session, open_tree


def _present(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise QuantctlError(
            f"cannot read {root / path}: {error.strerror}",
            "put the file back (its saved bytes are in quantctl log), then restore again",
        ) from error


def _edited_since(session: Session, written: dict[str, FileRecord]) -> list[tuple[str, bytes, bytes]]:
    """Path, the bytes quantctl wrote and those on disk, where they differ."""
    edited = []
    for path, record in written.items():
        ours = session.backup.repository.read_blob(record.after)
        present = _present(session.tree.root, path)
        if present != ours:
            edited.append((path, ours, present))
    return edited


def _save(session: Session, edited: list[tuple[str, bytes, bytes]]) -> None:
    """Record the user's bytes as an operation of their own, so that --force loses nothing."""
    changes = [Change(path, ours, present) for path, ours, present in edited]
    saved = session.record_only(changes, "save", "bytes found on disk before a forced restore")
    for path, _, _ in edited:
        output.say(f"kept: git -C {session.backup.repository.directory} show {saved.id}:after/{path}")


@click.command(short_help="back to the original bytes")
@click.option("--force", is_flag=True, help="Restore although files were edited since; the log keeps their bytes.")
@click.pass_context
def command(ctx: click.Context, force: bool) -> None:
    """Put back the bytes and permissions from before quantctl first touched the tree.

    Refuses, and shows the difference, when a file was edited after quantctl wrote it.
    """
    tree = tree_in_use(ctx)
    output.say(f"tree: {describe(tree)}")
    with open_tree(tree) as session:
        history = session.backup.since_stock()
        if edited := _edited_since(session, written_files(history)):
            if not force:
                for path, ours, present in edited:
                    output.say(unified_diff(path, ours, present))
                names = ", ".join(path for path, _, _ in edited)
                raise QuantctlError(
                    f"edited since quantctl wrote it: {names} (the difference is above)",
                    "take your edit back, or restore --force: it keeps your bytes in the log",
                )
            _save(session, edited)
        changes = [
            Change(
                path,
                _present(tree.root, path),
                session.backup.repository.read_blob(record.before),
                None if mode_of(tree.root / path) == record.mode else record.mode,
            )
            for path, record in original_files(history).items()
        ]
        operation = session.apply(changes, "restore", command_line(), {}) if changes else None
    if ctx.obj["json"]:
        output.data({"tree": tree.root, "operation": operation and operation.id, "files": [c.path for c in changes]})
        return
    for change in changes:
        click.echo(f"restored  {change.path}")
    if operation is None:
        output.say("nothing to restore: quantctl has changed nothing here since the last restore")
    else:
        output.say(f"operation {operation.short} recorded")
