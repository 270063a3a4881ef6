"""Replacing files whole: a reader sees the old bytes or the new ones, and Python never runs stale bytecode."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.quantctl")


def discard_temporary(path: Path) -> None:
    """Remove what a killed `stage` left beside `path`."""
    _temporary(path.resolve()).unlink(missing_ok=True)


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


def stage(path: Path, data: bytes, mode: int) -> Path:
    """Write `data` beside `path`, durably, with its owner and `mode`; returns the temporary file for `commit`."""
    path = path.resolve()
    temporary = _temporary(path)
    owner = path.stat()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
        # giving a file away needs privileges; without them it stays with the one who edits
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
    mtime = _newer_mtime(path)
    os.utime(temporary, ns=(mtime, mtime))
    return temporary


def commit(path: Path, temporary: Path) -> None:
    """Put the staged file in place of `path`. Other hard links to the old file keep their bytes."""
    path = path.resolve()
    os.replace(temporary, path)
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
