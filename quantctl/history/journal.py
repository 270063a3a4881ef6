"""The journal of the operation under way: what a later command needs to put the old files back.

It lies in the tree, where everybody who changes the tree finds it, whatever his home or container. It never means that
something is still to be done: an operation that the history does not name is taken back, one that it names is over.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantctl.disk import files
from quantctl.errors import QuantctlError
from quantctl.history.backup import Backup
from quantctl.history.record import FileState, Operation, file_state, path_inside, text
from quantctl.tree.tree import Tree

_NAME = ".quantctl-journal.json"
_EARLIER = "journal.json"
"""What it was called in quantctl's own folder, before it lay in the tree."""
_LARGEST = 2**20
"""Bytes that a journal can have."""


@dataclass(frozen=True)
class Entry:
    """One file of the operation."""

    path: str
    before: FileState
    after: FileState


@dataclass(frozen=True)
class Journal:
    """An operation between its commit and the moment its files are cleared away."""

    operation: str
    repository: str
    ref: str
    """Of the history that the operation is for."""
    token: str
    """In the names of the files beside its own; of an earlier journal, empty."""
    files: tuple[Entry, ...]


def path_of(tree: Tree) -> Path:
    return tree.core / _NAME


def _earlier(backup: Backup) -> Path:
    return backup.state / _EARLIER


def found_at(tree: Tree, backup: Backup) -> Path | None:
    """The journal of an operation that is under way or was killed, or None."""
    return next((path for path in (path_of(tree), _earlier(backup)) if os.path.lexists(path)), None)


def _draft_of(tree: Tree) -> Path:
    return tree.core / f"{_NAME}.new"


def begin(tree: Tree, backup: Backup, operation: Operation) -> Journal:
    """Write the journal, durably and whole; as private as the package."""
    entries = tuple(Entry(record.path, record.before, record.after) for record in operation.files)
    where = str(backup.repository.directory)
    journal = Journal(operation.id, where, backup.ref, secrets.token_hex(4), entries)
    draft, path = _draft_of(tree), path_of(tree)
    mode = files.mode_of(tree.core / "__init__.py") & 0o666
    with os.fdopen(files.create_new(draft, mode), "wb") as file:
        file.write(json.dumps(asdict(journal), indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    files.sync(path.parent)
    return journal


def end(tree: Tree, backup: Backup) -> None:
    """Remove it, and what a killed `begin` left; only for who holds the tree."""
    for path in (_draft_of(tree), path_of(tree), _earlier(backup)):
        files.remove(path)


def read(tree: Tree, backup: Backup) -> Journal | None:
    """What the journal that is there says. Raises QuantctlError when the file is something else."""
    path = found_at(tree, backup)
    if path is None:
        return None
    # an earlier one named neither: it lay with the history that it was for
    given = {} if path.name == _NAME else {"repository": str(backup.repository.directory), "ref": backup.ref}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("not a file")
            return _parse(json.loads(file.read(_LARGEST)), given)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise QuantctlError(
            f"an operation of another user ({path.lstat().st_uid}) on {tree.root} is not over: {path} cannot be read",
            "any quantctl command of that user that changes the tree ends it",
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise QuantctlError(
            f"{path} is no journal of quantctl: {type(error).__name__}: {error}",
            "look at the tree's files (quantctl check, git diff); when they are as you want them, remove it",
        ) from error


def _parse(data: dict[str, Any], given: dict[str, str]) -> Journal:
    entries = tuple(
        Entry(path_inside(entry["path"]), file_state(entry["before"]), file_state(entry["after"]))
        for entry in data["files"]
    )
    token = "" if given else text(data["token"])
    if not (given or token.isalnum()):
        raise ValueError(f"{token!r:.50} is no token")
    operation, repository, ref = (text({**data, **given}[name]) for name in ("operation", "repository", "ref"))
    return Journal(operation, repository, ref, token, entries)
