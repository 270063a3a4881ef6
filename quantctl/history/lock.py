"""One lock a tree, whoever holds it.

Users, homes and containers that change one tree share nothing but the tree, so they lock what is there already: its
package's folder (whoever is on this machine) and that folder's `__init__.py` (which NFS locks for every machine).
Nothing is created and nothing written. Only where the tree's file system has no locks the state directory's file
stands in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.tree.tree import Tree

_TIMEOUT = 60.0
"""Seconds that a command waits for another one."""
_PAUSE = 0.02
_NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF))
"""What a file system without locks says; EBADF is NFS's where the file must not be written."""


def _open(path: Path, writing: bool) -> int:
    return os.open(path, (os.O_RDWR if writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)


def _flock(path: Path, how: int) -> int:
    """A descriptor that holds the lock; -1 where there are no locks. Raises BlockingIOError when somebody has it."""
    for writing in (False, True):  # NFS gives an exclusive lock only to who could write
        try:
            descriptor = _open(path, writing)
        except OSError:
            if writing:
                break
            raise
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EBADF and not writing and not path.is_dir():
                continue
            if error.errno in _NO_LOCKS:
                break
            raise
        else:
            return descriptor
    return -1


def _same(descriptor: int, path: Path) -> bool:
    """Whether the path still names what was locked: a checkout of another commit replaces files."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _held(path: Path, how: int, deadline: float) -> Iterator[bool]:
    """Hold the lock on `path`; False where there are no locks. Raises TimeoutError at the deadline."""
    while True:
        try:
            descriptor = _flock(path, how)
        except BlockingIOError:
            descriptor = None
        if descriptor is not None:
            if descriptor < 0 or _same(descriptor, path):
                break
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_PAUSE)
    try:
        yield descriptor >= 0
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def _tree_held(tree: Tree, how: int) -> Iterator[bool]:
    """Hold the tree's own locks; whether it has both. Raises QuantctlError after a minute."""
    deadline = time.monotonic() + _TIMEOUT
    with ExitStack() as stack:
        try:
            held = [stack.enter_context(_held(p, how, deadline)) for p in (tree.core, tree.core / "__init__.py")]
        except TimeoutError as error:
            raise _busy(tree, tree.core) from error
        yield all(held)


def _busy(tree: Tree, what: Path) -> QuantctlError:
    return QuantctlError(
        f"another quantctl has been changing {tree.root} for more than {_TIMEOUT:.0f} s",
        f"wait for it, or end it; the lock is on {what} (fuser {what} tells who holds it)",
    )


@contextmanager
def changing(tree: Tree, state: Path) -> Iterator[None]:
    """Hold the tree against everybody. Raises QuantctlError when somebody else has it for longer than a minute."""
    with ExitStack() as stack:
        if not stack.enter_context(_tree_held(tree, fcntl.LOCK_EX)):
            import filelock

            lock = filelock.FileLock(state / "lock", timeout=_TIMEOUT)
            try:
                stack.enter_context(lock)
            except filelock.Timeout as error:
                raise _busy(tree, Path(lock.lock_file)) from error
        yield


def wait_for_changes(tree: Tree) -> bool:
    """Wait until nobody changes the tree; False where that cannot be known. Writes nothing."""
    with _tree_held(tree, fcntl.LOCK_SH) as known:
        return known
