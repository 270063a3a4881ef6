"""The folder of an unfinished dataset: one process at a time, and nobody else's files.

A folder is known for quantctl's by its mark, and only what quantctl has made in it is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError

MARK = b"quantctl data prepare\n"
"""What the lock of a folder of ours holds."""
NAMES = ("tokens.bin", "lengths.i32", "tokens.idx", "journal.json", "manifest.json")
"""Everything else that this program writes there, the names' own temporary files aside."""


@dataclass(frozen=True)
class Target:
    """Where a dataset goes."""

    prefix: Path

    def named(self, ending: str) -> Path:
        return self.prefix.with_name(self.prefix.name + ending)

    @property
    def part(self) -> Path:
        return self.named(".part")

    @property
    def manifest(self) -> Path:
        return self.named(".manifest.json")


def _is_ours(part: Path) -> bool:
    """A folder with our mark, or with nothing in it. Those of earlier versions have a journal in place of the mark."""
    if part.is_symlink() or not part.is_dir():
        return False
    if not set(os.listdir(part)) - {"lock"}:
        return True
    lock, journal = part / "lock", part / "journal.json"
    if lock.is_symlink() or not lock.is_file():
        return False
    if lock.read_bytes()[: len(MARK)] == MARK:
        return True
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return {"identity", "counts", "shard_start"} <= json.loads(journal.read_bytes()).keys()
    return False


def opened(path: Path) -> Any:
    """A file of ours to read and write, made if it is not there; never somebody else's, by way of a link."""
    try:
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        raise QuantctlError(f"{path} cannot be written: {error.strerror}", "give another --output") from error


@contextmanager
def owned(target: Target) -> Iterator[None]:
    """One process at a time prepares a dataset. What is refused before any work leaves no folder behind."""
    target.part.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        target.part.mkdir()
    if not _is_ours(target.part):
        raise QuantctlError(
            f"{target.part} is there, and quantctl has not made it", "move it, or give another --output"
        )
    with opened(target.part / "lock") as file:
        if not os.fstat(file.fileno()).st_size:
            os.pwrite(file.fileno(), MARK, 0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QuantctlError(
                f"another process is preparing {target.prefix}", "wait for it, or give another --output"
            ) from error
        try:
            yield
        finally:
            if target.part.exists() and os.listdir(target.part) == ["lock"]:
                forget(target)


def forget(target: Target) -> None:
    """Remove what is left of the work on a dataset: what this program has made, and nothing else."""
    for name in NAMES:
        (target.part / name).unlink(missing_ok=True)
        for temporary in target.part.glob(f".{name}.*"):
            temporary.unlink()
    if os.listdir(target.part) == ["lock"]:
        (target.part / "lock").unlink()
        target.part.rmdir()
