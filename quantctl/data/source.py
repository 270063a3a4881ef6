"""A shard on disk as it is read: its bytes, their digest, and whether somebody writes to it meanwhile.

A dataset says what it was made from. A name, a size and a time do not: they stay when bytes are written in their place
and the time is set back. So what is read is hashed, and the file's stamp, which no write leaves alone, tells cheaply
whether that has to be looked at again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from quantctl.errors import QuantctlError

_BLOCK = 1 << 20
_AGAIN = "leave it alone while it is read, then run the same command again"


class Stamp(NamedTuple):
    """What a file system says about a file: every write changes the last, which nobody can set."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int


def _stamp(stat: os.stat_result) -> Stamp:
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)


def stamp_of(path: Path) -> Stamp:
    """That of the file which has this name now."""
    return _stamp(path.stat())


class Read(NamedTuple):
    """A shard as it was when it was read."""

    stamp: Stamp
    sha256: str | None
    """Of all its bytes; None as long as they have not all been read."""


class Source(io.RawIOBase):
    """The file at `path`, hashed as it is read. Raises QuantctlError if it cannot be opened or is no regular file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.position, self._hash = path, 0, hashlib.sha256()
        try:
            # a FIFO that has come into its place does not stop everything
            self.file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise QuantctlError(f"{path} cannot be read: {error.strerror}", "mend or leave out that file") from error
        self.stamp = _stamp(os.fstat(self.file.fileno()))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        count = self.file.readinto(buffer) or 0  # type: ignore[arg-type]
        self._hash.update(memoryview(buffer)[:count])  # type: ignore[arg-type]
        self.position += count
        return count

    def read_to_end(self) -> None:
        """Hash what has not been read yet."""
        buffer = bytearray(_BLOCK)
        while self.readinto(buffer):
            pass

    def finished(self) -> str:
        """The digest of the whole file. Raises QuantctlError if it is another one than was opened."""
        self.read_to_end()
        if _stamp(os.fstat(self.file.fileno())) != self.stamp:
            raise QuantctlError(f"{self.path} was written to while it was read", _AGAIN)
        return self._hash.hexdigest()

    def close(self) -> None:
        self.file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def digest(path: Path) -> str:
    """sha256 of the file's bytes."""
    with Source(path) as source:
        source.read_to_end()
        return source._hash.hexdigest()


def changed(paths: Sequence[Path], reads: dict[int, Read]) -> Path | None:
    """The first of the shards that have been read whole whose bytes are others now; None if there is none.

    Where the stamp is still the same nothing is read.
    """
    for number, path in enumerate(paths):
        read = reads.get(number)
        if read is None or read.sha256 is None:
            continue
        try:
            same = stamp_of(path) == read.stamp or digest(path) == read.sha256
        except FileNotFoundError:
            same = False
        if not same:
            return path
    return None


def to_json(reads: dict[int, Read]) -> dict[str, list[object]]:
    return {str(number): [list(read.stamp), read.sha256] for number, read in reads.items()}


def from_json(kept: dict[str, list[object]]) -> dict[int, Read]:
    return {int(number): Read(Stamp(*stamp), sha256) for number, (stamp, sha256) in kept.items()}  # type: ignore
