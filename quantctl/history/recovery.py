"""What an operation that was killed has left: taken back by who changes the tree next, told by who only reads it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace

from quantctl.disk import files
from quantctl.errors import QuantctlError
from quantctl.history import journal, lock
from quantctl.history.backup import Backup, backup_of
from quantctl.history.git import GitError
from quantctl.history.journal import Journal
from quantctl.history.record import FileState
from quantctl.history.replace import Content, Replacement, clear, content_of, take_back
from quantctl.tree.state import TreeState, read_state
from quantctl.tree.tree import Tree

_PATIENCE = 10.0
"""Seconds that a reader waits for a journal to go where locks cannot say whether anybody is at work."""


@dataclass(frozen=True)
class Killed:
    """An operation that was killed, and its files."""

    journal: Journal
    items: tuple[Replacement, ...]
    published: bool
    """The history names it: it is over."""

    def whole(self) -> bool:
        """Whether the tree is the old one or the new one all the same."""
        present = [content_of(item.path) for item in self.items]
        return self.published or all(p == item.before for p, item in zip(present, self.items, strict=True))


def _owner_of(found: Journal, backup: Backup) -> Backup:
    """The history that the operation is for. Raises QuantctlError when it is not where we keep ours."""
    if found.repository != str(backup.repository.directory) or not found.ref.startswith("refs/quantctl/"):
        raise QuantctlError(
            f"an operation of another user, home or container is not over; its history is in {found.repository}",
            "whoever did it runs any quantctl command that changes the tree (quantctl restore) and it is taken back",
        )
    return replace(backup, ref=found.ref)


def _killed(tree: Tree, backup: Backup, found: Journal) -> Killed:
    owner = _owner_of(found, backup)
    states = [state for entry in found.files for state in (entry.before, entry.after)]
    contents = owner.repository.read_objects([state.blob for state in states])
    if None in contents:
        raise QuantctlError(
            f"an operation was killed half way, and git has lost bytes of it ({owner.repository.directory})",
            f"bring the files back by other means (git checkout, pip), then remove {journal.found_at(tree, backup)}",
        )
    known = dict(zip(states, contents, strict=True))

    def content(state: FileState) -> Content:
        return Content(known[state] or b"", state.mode)

    items = []
    for entry in found.files:
        path = (tree.root / entry.path).resolve()
        beside = files.temporary(path, found.token)
        items.append(Replacement(path, beside, content(entry.before), content(entry.after)))
    head = owner.head()
    published = head == found.operation or found.operation in {operation.id for operation in owner.operations()}
    return Killed(found, tuple(items), published)


def recover(tree: Tree, backup: Backup) -> str | None:
    """Take back an operation that was killed; returns its id, or None when there was none. For who holds the tree.

    Raises QuantctlError when a file of it was edited meanwhile, or when it is somebody else's.
    """
    found = journal.read(tree, backup)
    if found is None:
        journal.end(tree, backup)
        return None
    killed = _killed(tree, backup, found)
    owner = _owner_of(found, backup)
    owner.withdraw(found.operation)
    if killed.published or owner.head() == found.operation:
        for item in killed.items:
            clear(item)
    else:
        _refuse_edited(tree, backup, killed)
        if not found.token:  # no exchange: what lies beside a file is not its owner's
            for item in killed.items:
                clear(item)
        results = [take_back(item) for item in killed.items]
        if all(results):
            with suppress(GitError):
                owner.let_go(found.operation)
    journal.end(tree, backup)
    return found.operation


def _refuse_edited(tree: Tree, backup: Backup, killed: Killed) -> None:
    for item, entry in zip(killed.items, killed.journal.files, strict=True):
        if content_of(item.path) not in (item.before, item.after):
            at, found = backup.repository.shell("cat-file", "blob"), journal.found_at(tree, backup)
            raise QuantctlError(
                f"an earlier operation was killed half way, and {item.path} was edited since",
                f"its bytes before are in {at} {entry.before.blob}, those after in {at} {entry.after.blob}: put one of "
                f"them back and run the command again; or, to keep the tree as it is, remove {found}",
            )


def read_consistent(tree: Tree) -> TreeState:
    """The state of the tree as one operation left it, also while another process changes it. Writes nothing.

    Raises QuantctlError when an operation was killed half way.
    """
    backup = backup_of(tree)
    deadline = time.monotonic() + _PATIENCE
    while True:
        mark = _mark(tree, backup)
        if mark[0]:
            known = lock.wait_for_changes(tree)
            found = journal.read(tree, backup)
            if found is not None and (known or time.monotonic() > deadline):
                _refuse_torn(tree, backup, found)
            elif found is not None:
                time.sleep(0.05)
                continue
            mark = _mark(tree, backup)
        state = read_state(tree.root)
        if _mark(tree, backup) == mark:
            return state


def _mark(tree: Tree, backup: Backup) -> tuple[bool, str | None]:
    return journal.found_at(tree, backup) is not None, backup.head()


def _refuse_torn(tree: Tree, backup: Backup, found: Journal) -> None:
    if not _killed(tree, backup, found).whole():
        raise QuantctlError(
            f"an operation was killed half way: the files of {tree.root} are old and new ones",
            "quantctl restore, or the killed command once more, puts the old ones back first",
        )
