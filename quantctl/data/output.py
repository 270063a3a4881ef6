"""The dataset as it grows: what is on disk, how far it goes, and how it becomes the finished files.

    PREFIX.part/tokens.bin    ids so far
    PREFIX.part/lengths.i32   tokens a document so far
    PREFIX.part/journal.json  up to where both can be trusted, and which record comes next

A killed run leaves the folder; the next one cuts both files to what the journal vouches for and goes on. The finished
dataset appears under its name only when it is whole: PREFIX.bin, then PREFIX.idx, then PREFIX.manifest.json.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy

from quantctl.data.encoder import Encoded
from quantctl.data.index import write_index
from quantctl.data.part import Target, opened
from quantctl.data.shards import WORDS, Batch
from quantctl.data.source import Read, from_json, stamp_of, to_json
from quantctl.data.source import changed as changed_shard
from quantctl.disk.files import sync, write_new
from quantctl.errors import QuantctlError

SYNC_SECONDS = 5.0
"""Seconds of work that a killed run loses at most."""
_EXAMPLES = 10


@dataclass
class Counts:
    """How far the work has come."""

    shard: int = 0
    """The shard that is being read."""
    record: int = 0
    """The next record of it."""
    records: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    seconds: float = 0.0
    """Time spent, over all attempts."""
    filtered: dict[str, int] = field(default_factory=dict)
    malformed: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, batch: Batch, encoded: Encoded, shard: Path, itemsize: int) -> None:
        self.shard, self.record = batch.shard, batch.first + len(batch.records)
        self.records += len(batch.records)
        self.documents += encoded.documents
        self.tokens += len(encoded.tokens) // itemsize
        self.text_bytes += encoded.text_bytes
        self.filtered = dict(encoded.filtered + Counter(self.filtered))
        self.malformed = dict(encoded.malformed + Counter(self.malformed))
        for number, what in encoded.examples[: _EXAMPLES - len(self.examples)]:
            self.examples.append(f"{shard}: {WORDS[batch.kind]} {number + 1}: {what}")


def read_json(path: Path) -> dict[str, Any]:
    """What this program wrote there before. Raises QuantctlError if that is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        found["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise QuantctlError(f"{path} is damaged", "remove it, or give another --output") from error
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _by_blocks(file)


def _by_blocks(file: Any) -> str:
    """hashlib.file_digest, which Python 3.10 lacks."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class Growing:
    """The unfinished dataset, continued where an earlier attempt with the same `identity` stopped."""

    def __init__(self, target: Target, identity: dict[str, Any], dtype: Any) -> None:
        self.target, self.identity, self.dtype = target, identity, numpy.dtype(dtype)
        self.counts = Counts()
        self.shard_start = Counts()
        self.reads: dict[int, Read] = {}
        self.journal = target.part / "journal.json"
        sizes = {"tokens.bin": 0, "lengths.i32": 0}
        if self.journal.exists():
            earlier = read_json(self.journal)
            self.reads = from_json(earlier.get("reads", {}))
            self.counts, self.shard_start = self._vouched(earlier)
            sizes = {
                "tokens.bin": self.counts.tokens * self.dtype.itemsize,
                "lengths.i32": self.counts.documents * 4,
            }
        self.tokens, self.lengths = (self._opened(name, size) for name, size in sizes.items())
        self._earlier, self._started = self.counts.seconds, time.monotonic()
        self._synced = time.monotonic()

    def _vouched(self, earlier: dict[str, Any]) -> tuple[Counts, Counts]:
        """The counts to go on from, and those at the start of their shard.

        Shards that are yet to come may have changed; one that was being read is then read anew. Raises QuantctlError
        if anything else differs.
        """
        counts, start = Counts(**earlier["counts"]), Counts(**earlier["shard_start"])
        before, now = earlier["identity"], self.identity
        done = counts.shard
        finished = {number: read for number, read in self.reads.items() if number < done}
        changed = sorted(key for key in now if key != "shards" and before.get(key) != now[key])
        another = changed_shard([Path(name) for name, *_ in now["shards"]], finished)
        if another is not None:
            changed.append(f"shard {another}")
        elif [s[0] for s in before["shards"][:done]] != [s[0] for s in now["shards"][:done]] or (
            not finished and before["shards"][:done] != now["shards"][:done]
        ):
            changed.append("shards")
        if changed:
            part = self.target.part
            raise QuantctlError(
                f"{part} holds an unfinished dataset made otherwise: {', '.join(changed)} changed",
                f"give the same options and files to go on, or remove {part} to start again",
            )
        same_shard = before["shards"][done] == [*now["shards"], None][done] and (
            done not in self.reads or self.reads[done].stamp == stamp_of(Path(now["shards"][done][0]))
        )
        self.reads = finished
        return (counts if same_shard else copy.deepcopy(start)), start

    def _opened(self, name: str, size: int) -> Any:
        path = self.target.part / name
        file = opened(path)
        if os.fstat(file.fileno()).st_size < size:
            raise QuantctlError(f"{path} is shorter than its journal says", f"remove {self.target.part} to start again")
        file.truncate(size)
        file.seek(size)
        return file

    def add(self, batch: Batch, encoded: Encoded, shard: Path) -> None:
        """Append what a batch became. Batches come in reading order."""
        if batch.first == 0:
            self.shard_start = replace(copy.deepcopy(self.counts), shard=batch.shard, record=0)
        self.tokens.write(encoded.tokens)
        self.lengths.write(encoded.lengths)
        self.counts.add(batch, encoded, shard, self.dtype.itemsize)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.save()

    def changed_shard(self) -> Path | None:
        """One of the shards that have other bytes now than those which were read, or than when the work began."""
        shards = self.identity["shards"]
        late = [n for n, read in self.reads.items() if list(read.stamp[:2]) != shards[n][1:]]
        return Path(shards[late[0]][0]) if late else changed_shard([Path(name) for name, *_ in shards], self.reads)

    def close(self) -> None:
        for file in (self.tokens, self.lengths):
            file.close()

    def save(self) -> None:
        """Make everything so far durable, then say so in the journal."""
        for file in (self.tokens, self.lengths):
            file.flush()
            os.fsync(file.fileno())
        self.counts.seconds = self._earlier + time.monotonic() - self._started
        state = {"identity": self.identity, "counts": asdict(self.counts), "shard_start": asdict(self.shard_start)}
        state["reads"] = to_json(self.reads)
        write_new(self.journal, json.dumps(state).encode())
        self._synced = time.monotonic()

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Give the dataset its name; returns the manifest."""
        self.save()
        self.close()
        part = self.target.part
        lengths = numpy.fromfile(part / "lengths.i32", dtype=numpy.int32)
        with (part / "tokens.idx").open("wb") as index:
            write_index(index, lengths, self.dtype)
        sync(part / "tokens.idx")
        files = {ending: part / f"tokens{ending}" for ending in (".bin", ".idx")}
        manifest = {
            **facts,
            "identity": self.identity,
            "reads": to_json(self.reads),
            "dtype": self.dtype.name,
            "counts": asdict(self.counts),
            "files": {
                self.target.named(ending).name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
                for ending, path in files.items()
            },
        }
        write_new(part / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        put_in_place(self.target)
        return manifest


def put_in_place(target: Target) -> None:
    """Move what a finished part holds to its names: also what a run killed in the middle of this had left."""
    for name, ending in (("tokens.bin", ".bin"), ("tokens.idx", ".idx"), ("manifest.json", ".manifest.json")):
        source = target.part / name
        if source.exists():
            os.replace(source, target.named(ending))
    sync(target.prefix.parent)
