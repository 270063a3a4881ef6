"""Trees that an earlier quantctl patched: their own bytes from the history, so that they can be patched anew."""

from __future__ import annotations

from quantctl.history.backup import Backup
from quantctl.history.record import latest_records
from quantctl.tree.state import TreeState


def originals(state: TreeState, backup: Backup) -> dict[str, bytes]:
    """By file, for those that hold an earlier edition of a patch: the bytes from before quantctl first touched it.

    Those are left out that somebody has edited since, and whose own bytes no history knows.
    """
    files = {patch.file for patch in state.outdated()}
    known = {
        file: record.original.blob
        for file, record in (latest_records(backup.operations()).items() if files else ())
        if file in files and record.original is not None and record.edited is None
    }
    last = {file: record.after.blob for file, record in latest_records(backup.operations()).items() if file in known}
    blobs = backup.repository.read_objects([*known.values(), *last.values()])
    before, after = (dict(zip(known, part, strict=True)) for part in (blobs[: len(known)], blobs[len(known) :]))
    return {file: raw for file, raw in before.items() if raw is not None and after[file] == state.sources[file].raw}
