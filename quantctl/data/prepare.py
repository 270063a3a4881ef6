"""Preparing a dataset: shards in, PREFIX.bin and PREFIX.idx out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantctl.data.bpe import LONGEST_WORD, train_bpe, write_config
from quantctl.data.encoder import Encoded, Recipe, Worker, documents, encode_in_process, start_process, tokenizer_file
from quantctl.data.output import Counts, Growing, put_in_place, read_json
from quantctl.data.part import Target, forget, owned
from quantctl.data.shards import WORDS, Batch, batches
from quantctl.data.source import changed, from_json
from quantctl.errors import DIFFERS, QuantctlError
from quantctl.output import say

_AHEAD = 3
"""Batches a process that are read before their turn."""


class Strict(QuantctlError):
    """A malformed record, where none is accepted: a finding about the data."""

    status = DIFFERS


@dataclass(frozen=True)
class Job:
    """What is to be prepared."""

    shards: Sequence[Path]
    prefix: Path
    recipe: Recipe
    split: str
    """What one document of a plain text file is."""
    workers: int
    strict: bool
    """Stop at the first malformed record."""
    max_malformed: float = 10.0
    """Percent of the records; a dataset of fewer good ones is not finished."""

    @property
    def fields(self) -> list[str]:
        return list(dict.fromkeys((self.recipe.field, *self.recipe.filters.fields)))


def _identity(job: Job) -> dict[str, Any]:
    """What decides the bytes of the dataset. A run goes on with an earlier one's work only if this is the same."""
    stats = [(str(path), path.stat()) for path in job.shards]
    return json.loads(  # tuples become lists, as they are when read back
        json.dumps(
            {
                "shards": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
                "tokenizer": hashlib.sha256(tokenizer_file(job.recipe.tokenizer).read_bytes()).hexdigest(),
                "field": job.recipe.field,
                "filters": asdict(job.recipe.filters),
                "append_eod": job.recipe.append_eod,
                "special_tokens": job.recipe.special_tokens,
                "split": job.split,
            }
        )
    )


Encode = Callable[[Iterator[Batch]], Iterator[tuple[Batch, Encoded]]]


@contextmanager
def _encoding(job: Job, worker: Worker) -> Iterator[Encode]:
    """A function that tokenizes batches and gives them back in their order."""
    if job.workers == 1:
        yield lambda source: ((batch, worker(batch)) for batch in source)
        return
    executor = ProcessPoolExecutor(
        job.workers, multiprocessing.get_context("spawn"), initializer=start_process, initargs=(job.recipe,)
    )

    def encode(source: Iterator[Batch]) -> Iterator[tuple[Batch, Encoded]]:
        waiting: deque[tuple[Batch, Future[Encoded]]] = deque()
        for batch in source:
            waiting.append((batch, executor.submit(encode_in_process, batch)))
            if len(waiting) > _AHEAD * job.workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    try:
        yield encode
    finally:
        executor.shutdown(cancel_futures=True)


def _grow(job: Job, growing: Growing, worker: Worker, progress: Callable[[Counts, int], None]) -> None:
    counts = growing.counts
    source = batches(job.shards, job.fields, job.split, counts.shard, counts.record, growing.reads)
    with _encoding(job, worker) as encode:
        for batch, encoded in encode(source):
            if job.strict and encoded.examples:
                number, what = encoded.examples[0]
                raise Strict(
                    f"{job.shards[batch.shard]}: {WORDS[batch.kind]} {number + 1}: {what}",
                    "mend it, or leave --strict out: malformed records are then counted and left out",
                )
            growing.add(batch, encoded, job.shards[batch.shard])
            progress(counts, batch.position)
    if (another := growing.changed_shard()) is not None:
        raise QuantctlError(
            f"{another} was changed while the dataset was made of it",
            f"remove {growing.target.part}, leave the shards alone, and run the same command again",
        )


def prepare(job: Job, facts: dict[str, Any], progress: Callable[[Counts, int], None]) -> tuple[dict[str, Any], bool]:
    """The manifest of the dataset at `job.prefix`, and whether it was there already.

    `progress` is called with the counts and the bytes read of the present shard. Interrupted, killed or refused, the
    work so far stays beside the prefix, and the same job goes on from there. Raises QuantctlError for whatever a
    user can put right; nothing stands under the dataset's name before it is whole.
    """
    identity = _identity(job)
    target = Target(job.prefix)
    with owned(target):
        if (target.part / "manifest.json").exists():
            put_in_place(target)
        if target.manifest.exists():
            there = read_json(target.manifest)
            if there["identity"] == identity:
                if (another := changed(job.shards, from_json(there.get("reads", {})))) is not None:
                    raise QuantctlError(
                        f"{target.prefix} was made of {another}, whose bytes are others now",
                        "give another --output, or remove the dataset",
                    )
                forget(target)
                return there, True
        if taken := [path for ending in (".bin", ".idx") if os.path.lexists(path := target.named(ending))]:
            raise QuantctlError(
                f"{taken[0]} exists, made from other files or with other options",
                "give another --output, or remove it",
            )
        worker = Worker(job.recipe)
        growing = Growing(target, identity, worker.dtype)
        try:
            _grow(job, growing, worker, progress)
        except BrokenProcessPool as error:
            growing.save()
            raise QuantctlError(
                "a tokenizing process was killed, perhaps for want of memory",
                "what is done is kept: run the same command again, with fewer --workers",
            ) from error
        except BaseException:
            growing.save()
            raise
        counts = growing.counts
        if not counts.documents:
            growing.close()
            forget(target)  # nothing of it is worth keeping, and it must not stand in the way of the right options
            raise QuantctlError(
                f"no document was left of {counts.records:,} records: {summary(counts.malformed | counts.filtered)}",
                "is the field right (--field), are the filters?",
            )
        _refuse_malformed(job, counts)
        tokenizer = {
            "file": str(tokenizer_file(job.recipe.tokenizer)),
            "megatron_type": worker.encoder.megatron_type,
            "vocab_size": worker.encoder.vocab_size,
            "eod": worker.encoder.eod,
        }
        manifest = growing.finish({**facts, "tokenizer": tokenizer})
        forget(target)
        return manifest, False


def _refuse_malformed(job: Job, counts: Counts) -> None:
    malformed = sum(counts.malformed.values())
    if 100 * malformed > job.max_malformed * counts.records:
        raise Strict(
            f"{malformed:,} of {counts.records:,} records are malformed, more than {job.max_malformed:g} %: "
            f"{summary(counts.malformed)}; {counts.examples[0]}",
            "mend them, or accept so many: with --max-malformed 100 the same command finishes at once",
        )


def summary(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(reasons.items(), key=lambda item: -item[1]))


def train_tokenizer(job: Job, vocabulary: int, sample_bytes: int, folder: Path) -> Path:
    """Train a BPE of `vocabulary` tokens on the first `sample_bytes` of the kept documents; returns its folder.

    A tokenizer that an earlier attempt has trained for the same job is used again.
    """
    wanted = json.dumps(
        {
            "shards": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in job.shards],
            "field": job.recipe.field,
            "filters": asdict(job.recipe.filters),
            "split": job.split,
            "vocabulary": vocabulary,
            "sample_bytes": sample_bytes,
        }
    )
    note = folder / "trained.json"
    if note.exists() and note.read_text() == wanted:
        return folder
    if folder.exists():
        raise QuantctlError(
            f"{folder} exists, trained on other text", "use it with --tokenizer, remove it, or give another --output"
        )

    taken = Encoded()

    def texts() -> Iterator[str]:
        for batch in batches(job.shards, job.fields, job.split):
            yield from documents(batch, job.recipe, taken)
            if taken.text_bytes >= sample_bytes:
                return

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        draft = Path(place) / folder.name
        draft.mkdir()
        cut: Counter[str] = Counter()
        train_bpe(texts(), vocabulary, draft / "tokenizer.json", cut)
        if not taken.text_bytes:
            raise QuantctlError(
                f"no text to train a tokenizer on: {summary(taken.malformed + taken.filtered) or 'no records'}",
                "is the field right (--field), are the filters?",
            )
        if cut:
            words = f"{cut['words']:,} words of more than {LONGEST_WORD:,} characters"
            say(f"{words} were trained on in pieces of that length")
        write_config(draft)
        (draft / "trained.json").write_text(wanted)
        draft.rename(folder)
    return folder
