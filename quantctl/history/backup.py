"""The history of a tree: each operation is a commit under refs/quantctl/ that holds the files before and after it.

In a git checkout the commits live in the user's repository, beside its branches and never on them; a tree outside git
(site-packages, an unpacked wheel) or with a read-only .git has them in a bare repository in the state directory.
Index, HEAD, stash and working files of the user are never touched.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from quantctl.disk.files import private_dir
from quantctl.disk.paths import digest, state_dir
from quantctl.errors import QuantctlError
from quantctl.history import git, record
from quantctl.history.record import Operation
from quantctl.tree.tree import CORE, Tree

_LONGEST = 200
"""Characters of a tree's place in its repository that its history's name repeats: file systems end names at 255."""


@dataclass(frozen=True)
class Backup:
    """Where the history of one tree is kept."""

    repository: git.Git
    ref: str
    state: Path
    """Folder that is quantctl's own: the lock of a tree whose file system has none."""
    own: Path | None = None
    """The git directory of the owner's that it lies in, and is as private as; None for one of quantctl's own."""
    writable: bool = True

    @property
    def pending(self) -> str:
        """The ref that holds an operation until the history names it, so that no `git gc` takes its blobs."""
        return self.ref.replace("refs/quantctl/", "refs/quantctl-pending/", 1)

    def kept(self, operation: str) -> str:
        """The ref that holds an operation whose bytes nothing else holds."""
        return f"{self.ref.replace('refs/quantctl/', 'refs/quantctl-kept/', 1)}/{operation}"

    def prepare(self) -> None:
        """Make what does not exist yet: quantctl's own folder, the bare repository of trees outside git.

        Raises QuantctlError where that cannot be.
        """
        if not self.writable:
            raise QuantctlError(
                f"the history of this tree is in {self.own}, which cannot be written",
                "make it writable, then run the command again; nothing was changed",
            )
        try:
            private_dir(self.state, like=self.own)
            if not self.repository.directory.exists():
                _make_bare(self.repository.directory)
        except OSError as error:
            where = self.own or "the folder that XDG_STATE_HOME names (~/.local/state)"
            raise QuantctlError(
                f"the tree's history cannot be kept in {error.filename or self.state}: {error.strerror}",
                f"make {where} writable; nothing was changed",
            ) from error

    def operations(self) -> list[Operation]:
        """Newest first. Raises QuantctlError when the history holds what quantctl never wrote."""
        if self.head() is None:
            return []
        lines = self.repository.text("rev-list", "--first-parent", "--timestamp", self.ref, "--").splitlines()
        times = {commit: int(time) for time, _, commit in (line.partition(" ") for line in lines)}
        found = dict(zip(times, self.repository.read_objects([f"{id}:{record.FILE}" for id in times]), strict=True))
        old = [commit for commit, data in found.items() if data is None]
        if old:
            commits = self.repository.read_objects(old)
            found |= {id: record.data_of_commit(raw or b"") for id, raw in zip(old, commits, strict=True)}
        try:
            return [record.decode(commit, times[commit], data or b"") for commit, data in found.items()]
        except QuantctlError as error:
            at = self.repository.shell()
            raise QuantctlError(
                f"the history of this tree cannot be read: {error.message}",
                f"{at} log --stat {self.ref} shows what it holds; to begin a new one, keep it under another name: "
                f"{at} update-ref {self.kept('damaged')} {self.ref} && {at} update-ref -d {self.ref}",
            ) from error

    def head(self) -> str | None:
        return self.repository.ref(self.ref) if self.repository.directory.exists() else None

    def record(self, operation: Operation, previous: str | None) -> Operation:
        """Write the operation's commit on top of `previous`, without moving the ref; returns it with its id."""
        states = {
            f"{side}/{file.path}": state
            for file in operation.files
            for side, state in (("before", file.before), ("after", file.after), ("original", file.original))
            if state is not None
        }
        entries = {path: state.blob for path, state in states.items()}
        entries |= {f"edited/{file.path}": file.edited[1] for file in operation.files if file.edited}
        (entries[record.FILE],) = self.repository.write_blobs([record.encode(operation)])
        tree = self.repository.write_tree(entries)
        return replace(operation, id=self.repository.write_commit(tree, record.message(operation), previous))

    def hold(self, operation: Operation) -> None:
        """Keep an operation that the history does not name yet, and what an earlier one may have left here."""
        left = self.repository.ref(self.pending)
        put = [f"create {self.pending} {operation.id}"]
        if left:
            put = [f"update {self.kept(left)} {left}", f"update {self.pending} {operation.id} {left}"]
        self.repository.update_refs(*put)

    def publish(self, operation: Operation, previous: str | None) -> None:
        """Put a held operation on top of the history, which must still end in `previous`."""
        move = f"update {self.ref} {operation.id} {previous}" if previous else f"create {self.ref} {operation.id}"
        self.repository.update_refs(move, f"delete {self.pending} {operation.id}")

    def withdraw(self, operation: str) -> None:
        """Keep a held operation where `git gc` leaves it and no `publish` finds it: git may outlive the killed process.

        Either that has moved both refs, or it can move none any more.
        """
        if self.repository.ref(self.pending) != operation:
            return
        try:
            self.repository.update_refs(
                f"update {self.kept(operation)} {operation}", f"delete {self.pending} {operation}"
            )
        except git.GitError:
            if self.repository.ref(self.pending) == operation:
                raise

    def let_go(self, operation: str) -> None:
        """Forget an operation that was withdrawn."""
        if self.repository.ref(self.kept(operation)) == operation:
            self.repository.update_refs(f"delete {self.kept(operation)} {operation}")


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


def _in_checkout(tree: Tree, top: Path) -> Backup | None:
    """The user's repository, or None when it is out of reach."""
    repository = git.Git(top)
    try:
        folders = [repository.text("rev-parse", name) for name in ("--absolute-git-dir", "--git-common-dir")]
    except git.GitError:
        if repository.owner():  # root, where the owner cannot get to or cannot be acted for
            return None
        raise
    own, common = (Path(top, folder).resolve() for folder in folders)
    writable = os.access(own, os.W_OK) and os.access(common / "objects", os.W_OK)
    worktree = "main" if own == common else own.name
    inside = os.path.relpath(tree.root, top.resolve())
    words = re.sub(r"[^A-Za-z0-9]+", "-", inside).strip("-")[-_LONGEST:]
    name = "tree" if inside == "." else f"{words}-{digest(inside)}"
    return Backup(repository, f"refs/quantctl/{worktree}/{name}", own / "quantctl" / name, own, writable)


def _in_state_dir(tree: Tree) -> Backup:
    name = digest(str(tree.root))
    repository = git.Git(state_dir() / "backups.git", bare=True)
    return Backup(repository, f"refs/quantctl/trees/{name}", state_dir() / "trees" / name)


def checkout_of(tree: Tree) -> Path | None:
    """The working tree that owns the tree's files; None for site-packages, also those inside a checkout."""
    top = git.toplevel(tree.root)
    return None if top is None or git.is_ignored(top, tree.root / CORE) else top


def backup_of(tree: Tree) -> Backup:
    """Where the history of `tree` is, or will be, kept.

    It stays where it began: in the state directory for a tree that came into git later, or whose .git can be written
    now; in the repository that has become read-only, where it can still be read.
    """
    beside = _in_state_dir(tree)
    top = checkout_of(tree)
    own = _in_checkout(tree, top) if top is not None else None
    if own is None:
        return beside
    if own.writable and not beside.repository.directory.exists():
        return own
    return own if own.head() is not None or (own.writable and beside.head() is None) else beside
