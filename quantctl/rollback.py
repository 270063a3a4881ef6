"""Going back: to the owner's bytes, to the bytes before an operation, or before the last one. Nobody's edit is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantctl.backup import FileState, Operation, latest_records, states_before
from quantctl.errors import QuantctlError
from quantctl.files import mode_of
from quantctl.state import is_untouched
from quantctl.transaction import Change, Session


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


def original(operations: Sequence[Operation]) -> Goal:
    """The tree as its owner made it."""
    records = latest_records(operations)
    changed = {path: record.original for path, record in records.items() if record.after != record.original}
    return Goal("restore", changed, {})


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


def _edited(session: Session, goal: Goal, operations: Sequence[Operation]) -> list[Edited]:
    read = session.backup.repository.read_blob
    found = []
    for path, record in latest_records(operations).items():
        if path not in goal.files:
            continue
        ours, present = read(record.after.blob), _present(session.tree.root, path)
        if present != ours:
            found.append(Edited(path, ours, present, on_disk=True))
        elif record.edited and goal.kind == "restore":
            found.append(Edited(path, read(record.edited[0]), read(record.edited[1]), on_disk=False))
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
    edited = _edited(session, goal, operations)
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
    root, read = session.tree.root, session.backup.repository.read_blob
    changes = [
        Change(path, _present(root, path), read(state.blob), None if mode_of(root / path) == state.mode else state.mode)
        for path, state in goal.files.items()
    ]
    return session.apply(changes, goal.kind, command, goal.selectors, goal.target), saved
