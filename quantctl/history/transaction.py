"""Changing several files together or not at all, one operation at a time a tree.

The operation's commit (with the bytes before and after) is written first and held by a ref of its own, then a journal
that names it; then the files are staged beside their targets and put in place, each only if it still is what was read.
The move of the history's ref decides: an operation that stopped before it is taken back, by itself or, after a kill, by
whoever changes the tree next; behind it nothing is taken back any more.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from quantctl.disk import files
from quantctl.errors import QuantctlError
from quantctl.history import journal, lock, replace
from quantctl.history.backup import Backup, backup_of
from quantctl.history.git import GitError
from quantctl.history.record import FileRecord, FileState, Operation, latest_records
from quantctl.history.recovery import recover
from quantctl.history.replace import Content, Replacement
from quantctl.history.signals import signals_wait
from quantctl.tree.state import holds_patches
from quantctl.tree.tree import Tree


@dataclass(frozen=True)
class Change:
    """New content for one file of a tree."""

    path: str
    before: bytes
    after: bytes
    mode: int | None = None
    """Permission bits to give it; None keeps those it has."""
    fresh: bool = False
    """The file holds nothing of quantctl's, so `before` is its owner's work."""


@dataclass(frozen=True)
class Session:
    """The right to change one tree, held by `open_tree`."""

    tree: Tree
    backup: Backup

    def apply(
        self, changes: Sequence[Change], kind: str, command: str, selectors: Mapping[str, str], target: str = ""
    ) -> Operation | None:
        """Make the changes as one operation. None when there is nothing to change.

        Raises QuantctlError when a file cannot be written; then nothing was changed.
        """
        changes = [change for change in changes if change.before != change.after or change.mode is not None]
        if not changes:
            return None
        for change in changes:
            self.tree.refuse_links_out(change.path)
        previous = self.backup.head()
        operation = self._draft(previous, changes, kind, command, selectors, target)
        done = False
        try:
            with signals_wait():
                self._carry_out(operation, previous, changes)
                done = True
        except KeyboardInterrupt as error:  # it waited for the end of the block
            what = f"operation {operation.short} is complete and recorded" if done else str(error.__context__ or "")
            raise KeyboardInterrupt(what) from error
        return operation

    def _carry_out(self, operation: Operation, previous: str | None, changes: Sequence[Change]) -> None:
        items: list[Replacement] = []
        asked = False
        try:
            self.backup.hold(operation)
            token = journal.begin(self.tree, self.backup, operation).token
            items = [
                _replacement(self.tree, token, change, record)
                for change, record in zip(changes, operation.files, strict=True)
            ]
            for item in items:
                replace.stage(item)
            for item in items:
                if not replace.put(item):
                    raise QuantctlError(
                        f"{item.path} was changed by somebody else while quantctl was changing the tree",
                        "that change stays; run the command again",
                    )
            asked = True
            self.backup.publish(operation, previous)
        except BaseException as error:
            if not (asked and self._is_published(operation, error)):
                self._take_back(operation, items, error)
        with suppress(OSError):  # what stays does no harm: the journal names an operation that the history has,
            for item in items:  # and whoever changes the tree next clears its files away
                replace.clear(item)
            journal.end(self.tree, self.backup)

    def _is_published(self, operation: Operation, error: BaseException) -> bool:
        try:
            return self.backup.head() == operation.id
        except GitError as unknown:
            raise QuantctlError(
                f"git failed when the files were in place, and cannot tell whether the history names them: {unknown}",
                "the next command that changes the tree takes them back, or keeps them, as the history says",
            ) from error

    def _take_back(self, operation: Operation, items: Sequence[Replacement], error: BaseException) -> None:
        """Every file as it was, as far as it is still ours; then raise the error in words."""
        stuck, theirs = [], []
        for item in items:
            try:
                if not replace.take_back(item):
                    theirs.append(item)
            except OSError as failure:
                stuck.append(f"{item.path} ({failure.strerror})")
        reason, hint = str(error), "nothing was changed"
        if isinstance(error, OSError):
            reason = f"cannot write {error.filename or self.tree.root}: {error.strerror}"
        elif isinstance(error, QuantctlError):
            reason, hint = error.message, error.hint or hint
        if stuck:
            raise QuantctlError(
                f"{reason}; and not taken back: {', '.join(stuck)}",
                "once that can be written again, quantctl restore (or the same command) puts the old bytes back first; "
                f"they are in git -C {self.backup.repository.directory} show {operation.id}:before/PATH",
            ) from error
        with suppress(OSError):  # one that stays does no harm: there is nothing left to take back
            journal.end(self.tree, self.backup)
        with suppress(GitError):
            self.backup.withdraw(operation.id)
            if not theirs:
                self.backup.let_go(operation.id)
        if not isinstance(error, (OSError, QuantctlError)):
            raise error
        raise QuantctlError(reason, hint) from error

    def record_only(self, changes: Sequence[Change], kind: str, command: str) -> Operation:
        """Put bytes into the history that are on disk already."""
        previous = self.backup.head()
        operation = self._draft(previous, changes, kind, command)
        self.backup.repository.move_ref(self.backup.ref, operation.id, previous)
        return operation

    def _draft(
        self,
        previous: str | None,
        changes: Sequence[Change],
        kind: str,
        command: str,
        selectors: Mapping[str, str] | None = None,
        target: str = "",
    ) -> Operation:
        """The operation's commit on top of `previous`, not yet in the history."""
        return self.backup.record(
            Operation(
                id="",
                time=0,
                kind=kind,
                command=command,
                selectors=dict(selectors or {}),
                files=tuple(self._records(changes)),
                megatron=self.tree.version(),
                quantctl=importlib.metadata.version("quantctl"),
                target=target,
            ),
            previous,
        )

    def _records(self, changes: Sequence[Change]) -> Iterator[FileRecord]:
        known = latest_records(self.backup.operations())
        blobs = iter(self.backup.repository.write_blobs([raw for c in changes for raw in (c.before, c.after)]))
        for change in changes:
            mode = files.mode_of(self.tree.root / change.path)
            before = FileState(next(blobs), mode)
            after = FileState(next(blobs), mode if change.mode is None else change.mode)
            yield _continue(known.get(change.path), change, before, after)


def _replacement(tree: Tree, token: str, change: Change, record: FileRecord) -> Replacement:
    path = (tree.root / change.path).resolve()
    before, after = Content(change.before, record.before.mode), Content(change.after, record.after.mode)
    return Replacement(path, files.temporary(path, token), before, after)


def _continue(last: FileRecord | None, change: Change, before: FileState, after: FileState) -> FileRecord:
    """The record of a change behind the file's `last` one: what is original, and whether somebody edited in between."""
    continues = last is not None and last.after.blob == before.blob
    if last is None or (change.fresh and not continues):
        known = change.fresh or not holds_patches(change.path, change.before)
        return FileRecord(change.path, before, after, original=before if known else None)
    edited = last.edited if continues else (last.after.blob, before.blob)
    return FileRecord(change.path, before, after, last.original, None if after == last.original else edited)


@contextmanager
def open_tree(tree: Tree) -> Iterator[Session]:
    """Hold the tree's lock; an operation that was killed earlier is taken back first.

    Raises QuantctlError when another process holds the lock for longer than a minute.
    """
    backup = backup_of(tree)
    backup.prepare()
    with lock.changing(tree, backup.state):
        recover(tree, backup)
        yield Session(tree, backup)
