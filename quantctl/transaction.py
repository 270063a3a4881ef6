"""Changing several files together or not at all, one operation at a time a tree.

The operation's commit (with the bytes before and after) is written first, then a journal that names it; then the files
are staged beside their targets, put in place, and the ref moved. Whoever opens the tree next and finds a journal
finishes the operation from the blobs, so a kill at any point leaves the old tree or the new one.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from quantctl import files
from quantctl.backup import Backup, FileRecord, Operation, backup_of
from quantctl.errors import QuantctlError
from quantctl.tree import Tree

_LOCK_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Change:
    """New bytes for one file of a tree."""

    path: str
    before: bytes
    after: bytes
    mode: int | None = None
    """Permission bits to give it; None keeps those it has."""


@dataclass(frozen=True)
class Session:
    """The right to change one tree, held by `open_tree`."""

    tree: Tree
    backup: Backup

    def apply(
        self, changes: Sequence[Change], kind: str, command: str, selectors: Mapping[str, str]
    ) -> Operation | None:
        """Make the changes as one operation. None when there is nothing to change."""
        changes = [change for change in changes if change.before != change.after or change.mode is not None]
        if not changes:
            return None
        previous = self.backup.head()
        operation = self._draft(changes, kind, command, selectors)
        self._write_journal(operation, previous)
        try:
            self._put_in_place(changes, operation.files)
        except BaseException as error:
            self._take_back(changes)
            if isinstance(error, OSError):
                reason = f"cannot write {error.filename}: {error.strerror}"
                raise QuantctlError(reason, "nothing was changed") from error
            raise
        self.backup.repository.move_ref(self.backup.ref, operation.id, previous)
        self._journal.unlink()
        return operation

    def record_only(self, changes: Sequence[Change], kind: str, command: str) -> Operation:
        """Put bytes into the history that are on disk already."""
        previous = self.backup.head()
        operation = self._draft(changes, kind, command, {})
        self.backup.repository.move_ref(self.backup.ref, operation.id, previous)
        return operation

    def _draft(self, changes: Sequence[Change], kind: str, command: str, selectors: Mapping[str, str]) -> Operation:
        """The operation's commit, not yet in the history."""
        write = self.backup.repository.write_blob
        records = []
        for change in changes:
            mode = files.mode_of(self.tree.root / change.path) if change.mode is None else change.mode
            records.append(FileRecord(change.path, write(change.before), write(change.after), mode))
        return self.backup.record(
            Operation(
                id="",
                time=0,
                kind=kind,
                command=command,
                selectors=dict(selectors),
                files=tuple(records),
                megatron=self.tree.version(),
                quantctl=importlib.metadata.version("quantctl"),
            )
        )

    @property
    def _journal(self) -> Path:
        return self.backup.state / "journal.json"

    def _write_journal(self, operation: Operation, previous: str | None) -> None:
        data = {"operation": operation.id, "previous": previous, "files": [asdict(r) for r in operation.files]}
        files.write_new(self._journal, json.dumps(data, indent=1).encode())

    def _put_in_place(self, changes: Sequence[Change], records: Sequence[FileRecord]) -> None:
        staged = [
            (self.tree.root / change.path, files.stage(self.tree.root / change.path, change.after, record.mode))
            for change, record in zip(changes, records, strict=True)
        ]
        for path, temporary in staged:
            files.commit(path, temporary)

    def _take_back(self, changes: Sequence[Change]) -> None:
        """After a failure: every file as it was, then no journal. If that fails too the journal stays for `recover`."""
        for change in changes:
            path = self.tree.root / change.path
            files.discard_temporary(path)
            if path.read_bytes() != change.before:
                files.commit(path, files.stage(path, change.before, files.mode_of(path)))
        self._journal.unlink()

    def recover(self) -> str | None:
        """Finish an operation that was killed; returns its id, or None when there was none."""
        if not self._journal.exists():
            return None
        journal = json.loads(self._journal.read_bytes())
        repository = self.backup.repository
        for record in (FileRecord(**entry) for entry in journal["files"]):
            path = self.tree.root / record.path
            files.discard_temporary(path)
            before, after = repository.read_blob(record.before), repository.read_blob(record.after)
            present = path.read_bytes()
            if present == after:
                continue
            if present != before:
                raise QuantctlError(
                    f"an earlier operation was killed half way, and {path} was edited since",
                    f"its bytes before and after are in {repository.directory}: git cat-file blob {record.before} "
                    f"(or {record.after}); put one of them back, then run the command again",
                )
            files.commit(path, files.stage(path, after, record.mode))
        if self.backup.head() == journal["previous"]:
            repository.move_ref(self.backup.ref, journal["operation"], journal["previous"])
        self._journal.unlink()
        return str(journal["operation"])


@contextmanager
def open_tree(tree: Tree) -> Iterator[Session]:
    """Hold the tree's lock; an operation that was killed earlier is finished first.

    Raises QuantctlError when another process holds the lock for longer than a minute.
    """
    backup = backup_of(tree)
    backup.state.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(backup.state / "lock", timeout=_LOCK_TIMEOUT)
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
