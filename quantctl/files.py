"""Replacing files whole: a reader sees the old bytes or the new ones, and Python never runs stale bytecode."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


DRAFT_MODE = 0o200
"""Permissions of a file that `stage` has not finished; no source has them."""


def temporary(path: Path, token: str) -> Path:
    """Where an operation that drew `token` keeps a second file beside `path`."""
    return path.resolve().with_name(f".{path.name}.{token}.quantctl")


def sync(path: Path) -> None:
    """Ask the disk to keep what was written to a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newer_mtime(path: Path) -> int:
    """Nanoseconds: now, or a second after the file's present time if both fall into the same second.

    Bytecode is checked by size and by the source's time in whole seconds, so `mxfp8` to `mxfp4` within one second would
    run the old value.
    """
    old, now = path.stat().st_mtime_ns, time.time_ns()
    return now if now // 10**9 > old // 10**9 else (old // 10**9 + 1) * 10**9


def stage(path: Path, data: bytes, mode: int, temporary: Path) -> None:
    """Write `data` to `temporary`, durably, with the owner of `path` and `mode`; it must not be there yet."""
    owner = path.stat()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, DRAFT_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
        # giving a file away needs privileges; without them it stays with the one who edits
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        mtime = _newer_mtime(path)
        os.utime(descriptor, ns=(mtime, mtime))
        os.fchmod(descriptor, mode)


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
    with bytecode.open("rb") as file:
        flags = int.from_bytes(file.read(8)[4:], "little")
    return flags & 0b11 == 0b01


def write_new(path: Path, data: bytes, mode: int | None = None) -> None:
    """Create or replace a small file of quantctl's own, durably and whole; `mode` gives it permission bits."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)
