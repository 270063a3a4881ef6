"""Changing several files together or not at all, one operation at a time a tree.

The operation's commit (with the bytes before and after) is written first, then a journal that names it; then the files
are staged beside their targets, put in place, and the ref moved. Whoever opens the tree next and finds a journal
finishes the operation from the blobs, so a kill at any point leaves the old tree or the new one.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import filelock

from quantctl import files
from quantctl.backup import Backup, FileRecord, FileState, Operation, backup_of, latest_records
from quantctl.errors import QuantctlError
from quantctl.git import GitError
from quantctl.journal import Journal, signals_wait
from quantctl.state import TreeState, read_state
from quantctl.tree import Tree

_LOCK_TIMEOUT = 60.0  # seconds


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
        with signals_wait():
            try:
                Journal.begin(self.backup.state, operation, previous)
                self._put_in_place(changes, operation.files)
                self._publish(operation, previous)
            except BaseException as error:
                self._take_back(changes, operation.files)
                if isinstance(error, OSError):
                    reason = f"cannot write {error.filename or self.tree.root}: {error.strerror}"
                    raise QuantctlError(reason, "nothing was changed") from error
                raise
        Journal.end(self.backup.state)
        return operation

    def _publish(self, operation: Operation, previous: str | None) -> None:
        try:
            self.backup.repository.move_ref(self.backup.ref, operation.id, previous)
        except GitError:
            if self.backup.head() != operation.id:
                raise

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

    def _put_in_place(self, changes: Sequence[Change], records: Sequence[FileRecord]) -> None:
        paths = [self.tree.root / change.path for change in changes]
        staged = [
            files.stage(path, change.after, record.after.mode)
            for path, change, record in zip(paths, changes, records, strict=True)
        ]
        for path, temporary in zip(paths, staged, strict=True):
            files.commit(path, temporary)

    def _take_back(self, changes: Sequence[Change], records: Sequence[FileRecord]) -> None:
        """After a failure: every file as it was, then no journal; if that fails too, `recover` finds the journal."""
        for change, record in zip(changes, records, strict=True):
            self._ensure(change.path, change.before, record.before.mode)
        Journal.end(self.backup.state)

    def _ensure(self, file: str, data: bytes, mode: int) -> None:
        path = self.tree.root / file
        files.discard_temporary(path)
        if path.read_bytes() != data or files.mode_of(path) != mode:
            files.commit(path, files.stage(path, data, mode))

    def recover(self) -> str | None:
        """Finish an operation that was killed; returns its id, or None when there was none.

        Raises QuantctlError when a file of it was edited meanwhile.
        """
        journal = Journal.read(self.backup.state)
        if journal is None:
            return None
        repository = self.backup.repository
        contents = [[repository.read_blob(state.blob) for state in (e.before, e.after)] for e in journal.files]
        for entry, known in zip(journal.files, contents, strict=True):
            path = self.tree.root / entry.path
            if path.read_bytes() not in known:
                raise QuantctlError(
                    f"an earlier operation was killed half way, and {path} was edited since",
                    f"its bytes before and after: {repository.shell('cat-file', 'blob', entry.before.blob)} "
                    f"(or {entry.after.blob}); put one of them back, then run the command again",
                )
        for entry, (_, after) in zip(journal.files, contents, strict=True):
            self._ensure(entry.path, after, entry.after.mode)
        if self.backup.head() == journal.previous:
            repository.move_ref(self.backup.ref, journal.operation, journal.previous)
        Journal.end(self.backup.state)
        return journal.operation


def _continue(last: FileRecord | None, change: Change, before: FileState, after: FileState) -> FileRecord:
    """The record of a change behind the file's `last` one: what is original, and whether somebody edited in between."""
    continues = last is not None and last.after.blob == before.blob
    if last is None or (change.fresh and not continues):
        return FileRecord(change.path, before, after, original=before)
    edited = last.edited if continues else (last.after.blob, before.blob)
    return FileRecord(change.path, before, after, last.original, None if after == last.original else edited)


@contextmanager
def open_tree(tree: Tree) -> Iterator[Session]:
    """Hold the tree's lock; an operation that was killed earlier is finished first.

    Raises QuantctlError when another process holds the lock for longer than a minute.
    """
    backup = backup_of(tree)
    backup.prepare()
    lock = filelock.FileLock(backup.state / "lock", timeout=_LOCK_TIMEOUT)
    with suppress(FileExistsError):
        os.close(files.create_new(backup.state / "lock"))
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise QuantctlError(
            f"another quantctl has been changing {tree.root} for more than {_LOCK_TIMEOUT:.0f} s",
            f"wait for it, or end it; the lock is {lock.lock_file}",
        ) from error
    with lock:
        session = Session(tree, backup)
        session.recover()
        yield session


def read_consistent(tree: Tree) -> TreeState:
    """The state of the tree as one operation left it, also while another process changes it.

    An operation that was killed is finished first.
    """
    backup = backup_of(tree)
    while True:
        if Journal.path(backup.state).exists():
            with open_tree(tree):
                pass
        head = backup.head()
        state = read_state(tree.root)
        if not Journal.path(backup.state).exists() and backup.head() == head:
            return state
