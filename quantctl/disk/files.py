"""Creating and replacing files: whole, as private as their folder, and never through a link that stands in the way.

A reader sees the old bytes or the new ones, and Python never runs stale bytecode. What root creates belongs to the
owner of the folder that it lies in, who can go on working there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from pathlib import Path

from quantctl.disk.attributes import carry_over, refuse_foreign_link

DRAFT_MODE = 0o200
"""Permissions of a file that `stage` has not finished; no source has them."""

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value


def _private_mode(folder: os.stat_result) -> int:
    """Permission bits of a file that is to be as private as its folder; a folder that a group shares shares it too."""
    mode = stat.S_IMODE(folder.st_mode) & 0o664
    return mode if folder.st_mode & stat.S_ISGID else mode & ~_umask()


def _give_to_owner(descriptor: int, folder: os.stat_result) -> None:
    """What root makes in somebody's folder is theirs."""
    if os.geteuid() == 0 and folder.st_uid != 0:
        os.fchown(descriptor, folder.st_uid, folder.st_gid)


def create_new(path: Path, mode: int | None = None) -> int:
    """Create `path` and open it for writing; FileExistsError if anything has that name, be it a dangling link.

    Without `mode` it is as private as its folder.
    """
    folder = path.parent.stat()
    descriptor = os.open(path, os.O_RDWR | _NEW, 0o600)
    try:
        _give_to_owner(descriptor, folder)
        os.fchmod(descriptor, _private_mode(folder) if mode is None else mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def no_link(path: str, flags: int) -> int:
    """An `opener` for `open`: makes the file as private as its folder; OSError where a link or no file has the name."""
    with contextlib.suppress(FileExistsError):
        if flags & os.O_CREAT:
            os.close(create_new(Path(path)))
    # a pipe would keep us waiting for its reader
    descriptor = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        os.set_blocking(descriptor, True)
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def private_dir(path: Path, like: Path | None = None) -> Path:
    """Make the folder and those above it that are missing: for the user alone, or as private as the folder `like`.

    Raises QuantctlError where somebody else's link stands in the way.
    """
    refuse_foreign_link(path)
    if path.is_dir():
        return path
    private_dir(path.parent, like)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _give_to_owner(descriptor, path.parent.stat())
            if like is not None:
                os.fchmod(descriptor, mode_of(like))
        finally:
            os.close(descriptor)
    return path


def remove(path: Path) -> None:
    """Remove a file if it is there; on a read-only mount, too, nothing has to be done for one that is not."""
    if os.path.lexists(path):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the disk to keep what was written to a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary(path: Path, token: str) -> Path:
    """Where an operation that drew `token` keeps a second file beside `path`; earlier ones drew none."""
    return path.resolve().with_name(f".{path.name}{token and f'.{token}'}.quantctl")


def _newer_mtime(path: Path) -> int:
    """Nanoseconds: now, or a second after the file's present time if both fall into the same second.

    Bytecode is checked by size and by the source's time in whole seconds, so `mxfp8` to `mxfp4` within one second would
    run the old value.
    """
    old, now = path.stat().st_mtime_ns, time.time_ns()
    return now if now // 10**9 > old // 10**9 else (old // 10**9 + 1) * 10**9


def stage(path: Path, data: bytes, mode: int, temporary: Path) -> None:
    """Write `data` to `temporary`, durably, with the owner, access lists and other attributes of `path`, and `mode`.

    It must not be there yet. Raises QuantctlError where somebody would get access who has none now.
    """
    descriptor = os.open(temporary, os.O_WRONLY | _NEW, DRAFT_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        mtime = _newer_mtime(path)
        os.utime(descriptor, ns=(mtime, mtime))
        os.fsync(descriptor)
        carry_over(path, descriptor, mode)
        os.fsync(descriptor)


def replaced(path: Path) -> None:
    """What follows a replacement of `path`: the disk keeps it, and no bytecode of the old file is run."""
    sync(path.parent)
    for bytecode in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        if _is_never_checked(bytecode):
            bytecode.unlink()


def _is_never_checked(bytecode: Path) -> bool:
    """Whether Python would run it without a look at its source (PEP 552: the lowest flag set, the next one not).

    All other bytecode is checked by the source's time, which `stage` moves, or by its hash.
    """
    if not bytecode.is_file():  # opening a pipe would wait for its writer
        return False
    with bytecode.open("rb") as file:
        flags = int.from_bytes(file.read(8)[4:], "little")
    return flags & 0b11 == 0b01


def write_new(path: Path, data: bytes, mode: int | None = None) -> None:
    """Create or replace a small file of quantctl's own, durably and whole; without `mode` as private as its folder.

    A link under that name is replaced, not followed.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.quantctl")
    try:
        with os.fdopen(create_new(draft, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync(path.parent)
