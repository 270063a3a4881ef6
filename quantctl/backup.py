"""The history of a tree: each operation is a commit under refs/quantctl/ that holds the files before and after it.

In a git checkout the commits live in the user's repository, beside its branches and never on them; a tree outside git
(site-packages, an unpacked wheel) or with a read-only .git has them in a bare repository in the state directory.
Index, HEAD, stash and working files of the user are never touched.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantctl import git
from quantctl.files import private_dir
from quantctl.paths import digest, state_dir
from quantctl.tree import CORE, Tree

_DATA = "quantctl-operation: "
_LONGEST = 200
"""Characters of a tree's place in its repository that its history's name repeats: file systems end names at 255."""


@dataclass(frozen=True)
class FileState:
    """The content of one file at one moment: a git blob and the permission bits."""

    blob: str
    mode: int


@dataclass(frozen=True)
class FileRecord:
    """What one operation did to one file."""

    path: str
    before: FileState
    after: FileState
    original: FileState
    """As its owner made it, before quantctl first touched it; carried from record to record."""
    edited: tuple[str, str] | None = None
    """The blob quantctl had left and the one it found next, if somebody edited the patched file in between."""


@dataclass(frozen=True)
class Operation:
    """One change of a tree, as its commit tells it."""

    id: str
    time: int
    """Seconds since the epoch."""
    kind: str
    """patch, set, restore, rewind, undo or save."""
    command: str
    selectors: dict[str, str]
    """What the tree's selectors say after it; empty when it holds none."""
    files: tuple[FileRecord, ...]
    megatron: str
    quantctl: str
    target: str = ""
    """The operation that an undo took back."""

    @property
    def short(self) -> str:
        return self.id[:10]


@dataclass(frozen=True)
class Backup:
    """Where the history of one tree is kept."""

    repository: git.Git
    ref: str
    state: Path
    """Folder of the lock and the journal."""
    own: Path | None = None
    """The git directory of the owner's that it lies in, and is as private as; None for one of quantctl's own."""

    def prepare(self) -> None:
        """Make what does not exist yet: the folder of lock and journal, the bare repository of trees outside git."""
        private_dir(self.state, like=self.own)
        if not self.repository.directory.exists():
            _make_bare(self.repository.directory)

    def operations(self) -> list[Operation]:
        """Newest first."""
        if self.head() is None:
            return []
        log = self.repository.text("log", "--first-parent", "--format=%H %ct%n%B%x1e", self.ref, "--")
        return [_parse(entry.strip("\n")) for entry in log.split("\x1e") if entry.strip()]

    def head(self) -> str | None:
        return self.repository.ref(self.ref) if self.repository.directory.exists() else None

    def record(self, operation: Operation, previous: str | None) -> Operation:
        """Write the operation's commit on top of `previous`, without moving the ref; returns it with its id."""
        sides = ("before", "after", "original")
        entries = {f"{side}/{record.path}": getattr(record, side).blob for record in operation.files for side in sides}
        entries |= {f"edited/{record.path}": record.edited[1] for record in operation.files if record.edited}
        data = asdict(operation)
        for derived in ("id", "time"):
            del data[derived]
        values = "".join(f"{role}: {value}\n" for role, value in operation.selectors.items())
        message = f"{operation.command}\n\n{values or 'no selectors'}\n{_DATA}{json.dumps(data)}\n"
        commit = self.repository.write_commit(self.repository.write_tree(entries), message, previous)
        return replace(operation, id=commit)


def _make_bare(directory: Path) -> None:
    """A bare repository that is whole from the moment it is there, whoever else makes it too."""
    private_dir(directory.parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=directory.parent, ignore_cleanup_errors=True) as draft:
        repository = Path(draft) / directory.name
        private_dir(repository)
        git.Git(repository).run("init", "--bare", "--quiet", "--template=", ".")
        try:
            os.rename(repository, directory)
        except OSError:
            if not directory.exists():
                raise


def _parse(entry: str) -> Operation:
    header, *lines = entry.splitlines()
    commit, time = header.split()
    data = json.loads(next(line for line in lines if line.startswith(_DATA))[len(_DATA) :])
    data["files"] = tuple(_parse_record(record) for record in data["files"])
    return Operation(id=commit, time=int(time), **data)


def _parse_record(record: dict[str, Any]) -> FileRecord:
    states = {side: FileState(**record[side]) for side in ("before", "after", "original")}
    edited = record["edited"]
    return FileRecord(record["path"], **states, edited=(edited[0], edited[1]) if edited else None)


def latest_records(operations: Sequence[Operation]) -> dict[str, FileRecord]:
    """Per path the newest record of `operations` (newest first): what quantctl left, and what was there at first."""
    return {record.path: record for operation in reversed(operations) for record in operation.files}


def states_before(operations: Sequence[Operation]) -> dict[str, FileState]:
    """Per path the content before the oldest of `operations` (newest first)."""
    return {record.path: record.before for operation in operations for record in operation.files}


def _in_checkout(tree: Tree, top: Path) -> Backup | None:
    """The user's repository, or None when it cannot be written to."""
    repository = git.Git(top)
    try:
        folders = [repository.text("rev-parse", name) for name in ("--absolute-git-dir", "--git-common-dir")]
    except git.GitError:
        if repository.owner():  # root, where the owner cannot get to or cannot be acted for
            return None
        raise
    own, common = (Path(top, folder).resolve() for folder in folders)
    if not (os.access(own, os.W_OK) and os.access(common / "objects", os.W_OK)):
        return None
    worktree = "main" if own == common else own.name
    inside = os.path.relpath(tree.root, top.resolve())
    words = re.sub(r"[^A-Za-z0-9]+", "-", inside).strip("-")[-_LONGEST:]
    name = "tree" if inside == "." else f"{words}-{digest(inside)}"
    return Backup(repository, f"refs/quantctl/{worktree}/{name}", own / "quantctl" / name, own)


def _in_state_dir(tree: Tree) -> Backup:
    name = digest(str(tree.root))
    repository = git.Git(state_dir() / "backups.git", bare=True)
    return Backup(repository, f"refs/quantctl/trees/{name}", state_dir() / "trees" / name)


def checkout_of(tree: Tree) -> Path | None:
    """The working tree that owns the tree's files; None for site-packages, also those inside a checkout."""
    top = git.toplevel(tree.root)
    return None if top is None or git.is_ignored(top, tree.root / CORE) else top


def backup_of(tree: Tree) -> Backup:
    """Where the history of `tree` is, or will be, kept."""
    top = checkout_of(tree)
    return (_in_checkout(tree, top) if top is not None else None) or _in_state_dir(tree)
