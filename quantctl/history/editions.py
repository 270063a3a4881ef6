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
    if not files or backup.head() is None:
        return {}
    records = {
        file: record
        for file, record in latest_records(backup.operations()).items()
        if file in files and record.original is not None and record.edited is None
    }
    before = [record.original.blob for record in records.values() if record.original is not None]
    blobs = backup.repository.read_objects(before + [record.after.blob for record in records.values()])
    own, last = blobs[: len(records)], blobs[len(records) :]
    return {
        file: raw
        for file, raw, left in zip(records, own, last, strict=True)
        if raw is not None and left == state.sources[file].raw
    }
