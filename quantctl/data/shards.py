"""The raw files: finding them, and reading them in batches of records.

A record is what one document is made from: a line of JSON, a row of a parquet file, or a piece of plain text. Lines
stay bytes here; the tokenizing processes take them apart.
"""

from __future__ import annotations

import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from quantctl.data.source import Read, Source
from quantctl.errors import QuantctlError
from quantctl.outside.packages import require

BATCH_BYTES = 1 << 20
"""Text of a batch: large beside the cost of sending it to another process, small beside the memory of a machine."""
BATCH_RECORDS = 4096

LONGEST = 16 << 20
"""Bytes of a record: a tokenizer needs some thirty times as much memory for it at once. A longer one is malformed."""


@dataclass(frozen=True)
class TooLong:
    """In the place of a record that was not kept."""


Record = bytes | dict[str, Any] | TooLong


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one shard."""

    shard: int
    """Which of the shards."""
    first: int
    """Number of the first record in its shard, from 0."""
    kind: str
    """What the records are: a key of KINDS."""
    records: list[Record]
    position: int
    """Bytes of the shard that have been read, for progress."""


def _open_gzip(raw: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)


def _open_zstd(raw: IO[bytes]) -> IO[bytes]:
    # the standard library's reader of Python 3.14, which notices a file that was cut off; zstandard's does not
    require("reading .zst", {"data": ("backports.zstd",)})
    from backports.zstd import ZstdFile

    return io.BufferedReader(ZstdFile(raw), 1 << 20)


_COMPRESSION: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {".gz": _open_gzip, ".zst": _open_zstd}


def _each_line(file: IO[bytes]) -> Iterator[bytes | TooLong]:
    while line := file.readline(LONGEST + 1):
        if len(line) <= LONGEST:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST)
        yield TooLong()


def _lines(source: Source, _fields: Sequence[str], _split: str) -> Iterator[tuple[Record, int]]:
    with _unpacked(source) as file:
        for line in _each_line(file):
            yield line, source.position


def _text(source: Source, _fields: Sequence[str], split: str) -> Iterator[tuple[Record, int]]:
    with _unpacked(source) as file:
        for piece in _PIECES[split](file):
            yield piece, source.position


def _whole(file: IO[bytes]) -> Iterator[bytes | TooLong]:
    text = file.read(LONGEST + 1)
    yield text if len(text) <= LONGEST else TooLong()


def _paragraphs(file: IO[bytes]) -> Iterator[bytes | TooLong]:
    lines: list[bytes] = []
    size = 0
    for line in itertools.chain(_each_line(file), (b"",)):
        if isinstance(line, TooLong):
            size = LONGEST + 1
        elif line.strip():
            size += len(line)
            if size <= LONGEST:
                lines.append(line)
        elif size:
            yield b"".join(lines) if size <= LONGEST else TooLong()
            lines, size = [], 0
        if size > LONGEST:
            lines = []


_PIECES: dict[str, Callable[[IO[bytes]], Iterable[bytes | TooLong]]] = {
    "file": _whole,
    "paragraph": _paragraphs,
    "line": lambda file: (line for line in _each_line(file) if isinstance(line, TooLong) or line.strip()),
}
SPLITS = tuple(_PIECES)
"""What one document of a plain text file is."""


def _rows(source: Source, fields: Sequence[str], _split: str) -> Iterator[tuple[Record, int]]:
    require("reading parquet", {"data": ("pyarrow",)})
    from pyarrow import ArrowException, parquet

    path = source.path
    source.read_to_end()  # its reader goes to and fro
    try:
        with parquet.ParquetFile(source.file) as file:
            columns = file.schema_arrow.names
            if missing := [field for field in fields if field not in columns]:
                raise QuantctlError(
                    f"{path} has no column {missing[0]!r}",
                    f"its columns are {', '.join(columns)}: name one with --field",
                )
            size, rows, done = source.stamp.size, max(file.metadata.num_rows, 1), 0
            for block in file.iter_batches(batch_size=1024, columns=list(fields)):
                for row in block.to_pylist():
                    done += 1
                    yield row, size * done // rows
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise QuantctlError(f"{path} cannot be read: {error}", BROKEN) from error


BROKEN = "is the download complete? Mend the file or take it out, then run the same command again: it goes on there"

KINDS: dict[str, Callable[[Source, Sequence[str], str], Iterator[tuple[Record, int]]]] = {
    "json": _lines,
    "text": _text,
    "parquet": _rows,
}
"""Kind of file -> its records, each with the bytes of the file read so far."""

WORDS = {"json": "line", "text": "document", "parquet": "row"}
"""Kind of file -> what a record of it is called."""

_ENDINGS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
}


def kind_of(path: Path) -> str | None:
    """The kind of a shard, by its name; None for a file that is none."""
    suffixes = path.suffixes[:-1] if path.suffix in _COMPRESSION else path.suffixes
    if suffixes:
        return _ENDINGS.get(suffixes[-1])
    return "json" if path.name.startswith("wiki_") else None  # WikiExtractor's names have no ending


_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


@contextmanager
def _unpacked(source: Source) -> Iterator[IO[bytes]]:
    """The decompressed file."""
    unpack = _COMPRESSION.get(source.path.suffix)
    raw = io.BufferedReader(source, 1 << 20)
    try:
        yield raw if unpack is None else unpack(raw)
    except Exception as error:
        if isinstance(error, _DAMAGED) or type(error).__name__ == "ZstdError":  # defined where it is installed
            raise QuantctlError(f"{source.path} is damaged: {error}", BROKEN) from error
        raise
    finally:
        raw.detach()  # it would close the source, of which the rest is still to be hashed


def find(inputs: Sequence[Path], globs: Sequence[str]) -> list[Path]:
    """The shards in reading order: files as given, folders by their names. Raises QuantctlError if there are none."""
    found: list[Path] = []
    for given in inputs:
        if given.is_dir():
            below = sorted({path for glob in globs for path in given.glob(glob) if path.is_file() and kind_of(path)})
            if not below:
                other = next((path for path in sorted(given.rglob("*")) if path.is_file() and kind_of(path)), None)
                raise QuantctlError(
                    f"{given} holds no shards ({', '.join(globs)})",
                    f"known endings: {', '.join(_ENDINGS)}, each also with {' or '.join(_COMPRESSION)}"
                    if other is None
                    else f"it holds {other.relative_to(given)}, which the preset does not look for: name the files",
                )
            found += below
        elif not given.exists():
            raise QuantctlError(f"{given} does not exist", "name a file or a folder of shards")
        elif not given.is_file():
            raise QuantctlError(
                f"{given} is no regular file", "shards are read again when a run goes on: write it to a file first"
            )
        elif kind_of(given) is None:
            raise QuantctlError(
                f"{given}: what kind of file is it?",
                f"known endings: {', '.join(_ENDINGS)}, each also with {' or '.join(_COMPRESSION)}",
            )
        else:
            found.append(given)
    if repeated := {path for path in found if found.count(path) > 1}:
        raise QuantctlError(f"{min(repeated)} is named twice", "its documents would be trained on twice: name it once")
    return found


def batches(
    shards: Sequence[Path],
    fields: Sequence[str],
    split: str,
    shard: int = 0,
    record: int = 0,
    reads: dict[int, Read] | None = None,
) -> Iterator[Batch]:
    """All records from the `record`-th one of the `shard`-th shard on.

    reads: gets what each shard was like when it was read. Raises QuantctlError for a shard that cannot be read, or
    that is written to while it is.
    """
    for number in range(shard, len(shards)):
        path = shards[number]
        kind = kind_of(path)
        assert kind is not None
        skip = record if number == shard else 0
        pending: list[Record] = []
        size, seen, position = 0, 0, 0
        with Source(path) as source:
            if reads is not None:
                reads[number] = Read(source.stamp, None)
            for item, position in KINDS[kind](source, fields, split):
                seen += 1
                if seen <= skip:
                    continue
                pending.append(item)
                size += _size(item)
                if size >= BATCH_BYTES or len(pending) >= BATCH_RECORDS:
                    yield Batch(number, seen - len(pending), kind, pending, position)
                    pending, size = [], 0
            sha256 = source.finished()
            if reads is not None:
                reads[number] = Read(source.stamp, sha256)
        if pending:
            yield Batch(number, seen - len(pending), kind, pending, source.stamp.size)


def _size(item: Record) -> int:
    if isinstance(item, dict):
        return sum(len(str(value)) for value in item.values())
    return len(item) if isinstance(item, bytes) else 0
