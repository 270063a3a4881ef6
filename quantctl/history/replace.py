"""Putting a file in place of one that is still what we read, and taking it back while it is still ours.

The kernel exchanges the two names in one step, so that what comes out can be looked at before it is let go: whatever
its owner saved up to that moment is seen, and goes back. On a file system that cannot exchange, the last look comes
right before the replacement.

An exchange leaves the old file beside the new one, under its temporary name, until the operation is over. `take_back`
reads from the two files alone how far things had come, so it serves a failed operation and one that was killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from quantctl.disk import files

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset((errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))


@dataclass(frozen=True)
class Content:
    """What a file holds, and its permission bits."""

    data: bytes
    mode: int


@dataclass(frozen=True)
class Replacement:
    """One file of an operation: from `before` to `after`."""

    path: Path
    """Resolved."""
    temporary: Path
    """Beside it."""
    before: Content
    after: Content


def content_of(path: Path) -> Content | None:
    """None where there is no regular file: nothing, a link, a folder, or a file that `stage` did not finish."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        unfinished = error.errno == errno.EACCES and stat.S_IMODE(path.lstat().st_mode) == files.DRAFT_MODE
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO) or unfinished:
            return None
        raise
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) == files.DRAFT_MODE:
            return None
        return Content(file.read(), stat.S_IMODE(found.st_mode))


def exchange(one: Path, other: Path) -> bool:
    """Exchange two files' names in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    names = (ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other)))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one))


def stage(item: Replacement) -> None:
    """Write the new file beside the old one."""
    files.stage(item.path, item.after.data, item.after.mode, item.temporary)


def _put(path: Path, temporary: Path, expected: Content, ours: Content) -> bool:
    """Put `temporary`, which holds `ours`, in place of `path` if that is `expected`; False if it is something else."""
    if content_of(path) != expected:
        return False
    try:
        exchanged = exchange(path, temporary)
    except FileNotFoundError:  # its owner removed it
        return False
    if not exchanged:
        os.replace(temporary, path)
    elif content_of(temporary) != expected:
        exchange(path, temporary)
        if content_of(temporary) != ours:  # saved once more meanwhile: the last one counts
            exchange(path, temporary)
        return False
    files.replaced(path)
    return True


def put(item: Replacement) -> bool:
    """Put the staged file in place; False, and nothing done, if somebody else has changed the file."""
    return _put(item.path, item.temporary, item.before, item.after)


def take_back(item: Replacement) -> bool:
    """Undo `stage` and `put`, wherever they were stopped; False if the file is neither ours nor as it was before.

    Then it is its owner's, newer than ours, and stays.
    """
    present = content_of(item.path)
    if present == item.after != item.before:
        kept = content_of(item.temporary)
        if kept is None:
            files.remove(item.temporary)
            files.stage(item.path, item.before.data, item.before.mode, item.temporary)
            kept = item.before
        # what an exchange brought out and nobody could look at any more is its owner's newest, and goes back as well
        _put(item.path, item.temporary, item.after, kept)
        present = content_of(item.path)
    clear(item)
    return present == item.before


def clear(item: Replacement) -> None:
    """Remove what lies beside the file, once the operation is over."""
    files.remove(item.temporary)
