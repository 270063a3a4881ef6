"""Going back: to the owner's bytes, to the bytes before an operation, or before the last one. Nobody's edit is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantctl.disk.files import mode_of
from quantctl.errors import QuantctlError
from quantctl.history.record import FileState, Operation, latest_records, states_before
from quantctl.history.transaction import Change, Session
from quantctl.tree.state import holds_patches, is_untouched


@dataclass(frozen=True)
class Goal:
    """Where to go back to."""

    kind: str
    """restore, rewind or undo."""
    files: Mapping[str, FileState]
    selectors: Mapping[str, str]
    """What the selectors say there; empty for the owner's own tree."""
    target: str = ""
    """The operation that is taken back by an undo."""


@dataclass(frozen=True)
class Edited:
    """A file that somebody changed after quantctl wrote it."""

    path: str
    ours: bytes
    theirs: bytes
    on_disk: bool
    """False for an edit that a later operation of quantctl already contains."""


class EditedSince(QuantctlError):
    """Going back would drop somebody's edits."""

    def __init__(self, edited: Sequence[Edited], reason: str) -> None:
        super().__init__(
            f"edited since quantctl wrote it{reason}: {', '.join(e.path for e in edited)} (the difference is above)",
            "take the edit back, or use --force: it keeps the present bytes in the log",
        )
        self.edited = edited


def original(operations: Sequence[Operation], root: Path) -> Goal:
    """The tree as its owner made it. Raises QuantctlError where nobody recorded how that was."""
    records = latest_records(operations)
    unknown = [path for path, record in records.items() if record.original is None and _is_patched(root, path)]
    if unknown:
        raise originals_unknown(unknown)
    return Goal(
        "restore",
        {
            path: record.original
            for path, record in records.items()
            if record.original is not None and record.after != record.original
        },
        {},
    )


def originals_unknown(paths: Sequence[str]) -> QuantctlError:
    """For files that held quantctl's patches before their history began."""
    return QuantctlError(
        f"the original bytes of {', '.join(paths)} are not known here: they held quantctl's patches when this history "
        "began (the tree was moved, copied or cloned, or another user patched it)",
        "bring the stock files back: git log -- FILE and git checkout COMMIT -- FILE, or pip install --force-reinstall "
        "--no-deps megatron-core==VERSION; a moved tree is restored where it was; undo takes back what was done here",
    )


def _is_patched(root: Path, path: str) -> bool:
    return holds_patches(path, _present(root, path))


def before(operations: Sequence[Operation], wanted: str) -> Goal:
    """The tree before the operation whose id starts with `wanted`. Raises QuantctlError unless there is exactly one."""
    matching = [index for index, operation in enumerate(operations) if operation.id.startswith(wanted)]
    if len(matching) != 1:
        what = "no operation" if not matching else f"{len(matching)} operations"
        raise QuantctlError(f"{what} of this tree starts with {wanted!r}", "quantctl log lists them")
    (index,) = matching
    return Goal("rewind", states_before(operations[: index + 1]), _selectors_after(operations, index + 1))


def undo(operations: Sequence[Operation]) -> Goal | None:
    """The tree before the last operation that has not been undone yet; None when there is none."""
    ids = [operation.id for operation in operations]
    index = 0
    while index < len(operations) and operations[index].kind == "undo":
        index = ids.index(operations[index].target) + 1
    if index == len(operations):
        return None
    operation = operations[index]
    files = {record.path: record.before for record in operation.files}
    return Goal("undo", files, _selectors_after(operations, index + 1), operation.id)


def _selectors_after(operations: Sequence[Operation], index: int) -> Mapping[str, str]:
    return operations[index].selectors if index < len(operations) else {}


def _present(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise QuantctlError(
            f"cannot read {root / path}: {error.strerror}",
            "put the file back (quantctl log says where its saved bytes are), then run the command again",
        ) from error


def _edited(
    session: Session, goal: Goal, operations: Sequence[Operation], present: Mapping[str, bytes]
) -> list[Edited]:
    records = {path: record for path, record in latest_records(operations).items() if path in goal.files}
    read = session.backup.repository.read_blobs(
        {blob for record in records.values() for blob in (record.after.blob, *(record.edited or ()))}
    )
    found = []
    for path, record in records.items():
        ours = read[record.after.blob]
        if present[path] != ours:
            found.append(Edited(path, ours, present[path], on_disk=True))
        elif record.edited and goal.kind == "restore":
            found.append(Edited(path, read[record.edited[0]], read[record.edited[1]], on_disk=False))
    return found


def _without_replaced(goal: Goal, edited: Sequence[Edited], upgrade: str) -> tuple[Goal, list[Edited]]:
    """Leave out files that hold nothing of quantctl's any more: they are their owner's again, as they are.

    Raises QuantctlError when that is all of them.
    """
    replaced = {e.path for e in edited if e.on_disk and is_untouched(e.path, e.theirs)}
    if replaced and replaced == set(goal.files):
        raise QuantctlError(
            f"the files were replaced since quantctl wrote them{upgrade}: nothing of quantctl's is in them",
            "there is nothing to restore; quantctl set patches the tree as it is now",
        )
    files = {path: state for path, state in goal.files.items() if path not in replaced}
    return replace(goal, files=files), [e for e in edited if e.path not in replaced]


def go_back(
    session: Session, goal: Goal, operations: Sequence[Operation], command: str, *, force: bool
) -> tuple[Operation | None, Operation | None]:
    """Write the goal's bytes as one operation; returns it and the one that saved edited files, where there were any.

    Raises EditedSince when files were edited after quantctl wrote them, unless `force`.
    """
    root = session.tree.root
    present = {path: _present(root, path) for path in goal.files}
    edited = _edited(session, goal, operations, present)
    saved = None
    if edited:
        then, now = operations[0].megatron, session.tree.version()
        upgrade = f" (megatron-core {then} then, {now} now)" if then != now else ""
        if goal.kind == "restore":
            goal, edited = _without_replaced(goal, edited, upgrade)
        if edited and not force:
            raise EditedSince(edited, upgrade)
        if on_disk := [Change(e.path, e.ours, e.theirs) for e in edited if e.on_disk]:
            saved = session.record_only(on_disk, "save", f"bytes on disk before: {command}")
    read = session.backup.repository.read_blobs({state.blob for state in goal.files.values()})
    wanted = {path: read[state.blob] for path, state in goal.files.items()}
    # quantctl 0.1 recorded what it met in a moved tree as original
    if goal.kind == "restore" and (patched := [path for path, raw in wanted.items() if holds_patches(path, raw)]):
        raise originals_unknown(patched)
    changes = [
        Change(path, present[path], wanted[path], None if mode_of(root / path) == state.mode else state.mode)
        for path, state in goal.files.items()
    ]
    return session.apply(changes, goal.kind, command, goal.selectors, goal.target), saved
