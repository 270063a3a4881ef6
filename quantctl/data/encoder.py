"""From records to token ids: what the tokenizing processes do."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy

from quantctl.data.filters import Filters
from quantctl.data.shards import LONGEST, Batch, Record, TooLong
from quantctl.errors import QuantctlError
from quantctl.outside.packages import require

SHOWN = 5
"""Malformed records that a batch describes; all are counted."""


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    vocab_size: int
    eod: int
    megatron_type: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...


class HuggingFace:
    """tokenizer.json, read by the `tokenizers` library."""

    megatron_type = "HuggingFaceTokenizer"

    def __init__(self, file: Path, special_tokens: bool) -> None:
        from quantctl.data.tokenizer import end_of_document, read_fast

        self.fast = read_fast(file)
        self.vocab_size = max(self.fast.get_vocab(with_added_tokens=True).values()) + 1
        self.eod = end_of_document(self.fast, file)
        self.special_tokens = special_tokens

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.fast.encode_batch_fast(list(texts), add_special_tokens=self.special_tokens)
        return [encoding.ids for encoding in encoded]


class SentencePiece:
    """A .model file, read by the `sentencepiece` library."""

    megatron_type = "GPTSentencePieceTokenizer"

    def __init__(self, file: Path, special_tokens: bool) -> None:
        require(f"{file}", {"data": ("sentencepiece",)})
        import sentencepiece

        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except RuntimeError as error:
            raise QuantctlError(f"{file} is no sentencepiece model", "give the .model file") from error
        self.vocab_size = self.processor.get_piece_size()
        self.eod = self.processor.eos_id()
        if self.eod < 0:
            raise QuantctlError(f"{file} has no token that ends a document", "train it with an eos_id")
        self.special_tokens = special_tokens

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.processor.encode(list(texts), add_bos=self.special_tokens)
        return encoded


def tokenizer_file(path: Path) -> Path:
    """The file that defines the tokenizer: `path`, or the tokenizer.json or tokenizer.model in that folder."""
    candidates = [path / "tokenizer.json", path / "tokenizer.model"] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file
    there = "the folder has no tokenizer.json" if path.is_dir() else "there is no such file or folder"
    raise QuantctlError(
        f"{path} is no tokenizer: {there}",
        "give a Hugging Face tokenizer's folder, its tokenizer.json, or a sentencepiece .model; "
        "or train one with --train-bpe SIZE",
    )


def open_encoder(path: Path, special_tokens: bool) -> Encoder:
    """The tokenizer at `path`: a folder, a tokenizer.json or a sentencepiece .model."""
    file = tokenizer_file(path)
    return SentencePiece(file, special_tokens) if file.suffix == ".model" else HuggingFace(file, special_tokens)


def token_dtype(vocab_size: int) -> type[numpy.unsignedinteger] | type[numpy.signedinteger]:
    """Megatron's DType.optimal_dtype: readers take the dtype from the index, so it only has to hold every id."""
    return numpy.uint16 if vocab_size < 65500 else numpy.int32


@dataclass(frozen=True)
class Recipe:
    """All that decides what a record becomes."""

    tokenizer: Path
    field: str
    """The field or column that holds the text."""
    filters: Filters
    append_eod: bool
    special_tokens: bool
    """Whether the tokenizer adds what it puts around a text by itself, such as Llama 3's BOS."""


@dataclass
class Encoded:
    """What a batch became."""

    tokens: bytes = b""
    """Ids of all documents, one behind the other, in the dataset's dtype."""
    lengths: bytes = b""
    """Tokens a document, int32."""
    documents: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the documents that were kept."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Reason -> documents left out."""
    malformed: Counter[str] = field(default_factory=Counter)
    """What is wrong -> records that are no documents."""
    examples: list[tuple[int, str]] = field(default_factory=list)
    """The first malformed records: number in the shard, what is wrong."""


class Malformed(Exception):
    """A record from which no text can be had."""


def _record_and_text(kind: str, item: Record, name: str) -> tuple[dict[str, Any], str]:
    if isinstance(item, TooLong):
        raise Malformed(f"longer than {LONGEST >> 20} MiB")
    try:
        if kind == "text":
            assert isinstance(item, bytes)
            return {}, item.decode("utf-8-sig")
        record = json.loads(item) if isinstance(item, bytes) else item
    except UnicodeDecodeError as error:
        raise Malformed("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(record, dict):
        raise Malformed("not a JSON object")
    if name not in record:
        raise Malformed(f"no field {name!r}")
    text = record[name]
    if not isinstance(text, str):
        raise Malformed(f"field {name!r} is not a string")
    return record, text


def documents(batch: Batch, recipe: Recipe, result: Encoded) -> list[str]:
    """The texts of a batch that are kept; what is not kept is counted in `result`."""
    texts = []
    for number, item in enumerate(batch.records):
        if isinstance(item, bytes) and not item.strip():
            continue
        try:
            record, text = _record_and_text(batch.kind, item, recipe.field)
            try:
                size = len(text.encode())
            except UnicodeEncodeError as error:
                raise Malformed("half a surrogate pair") from error
        except Malformed as error:
            result.malformed[str(error)] += 1
            if len(result.examples) < SHOWN:
                result.examples.append((batch.first + number, str(error)))
            continue
        if reason := recipe.filters.reason(text, record):
            result.filtered[reason] += 1
            continue
        result.text_bytes += size
        texts.append(text)
    return texts


class Worker:
    """Tokenizes batches under one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.encoder = open_encoder(recipe.tokenizer, recipe.special_tokens)
        self.dtype = token_dtype(self.encoder.vocab_size)

    def __call__(self, batch: Batch) -> Encoded:
        result = Encoded()
        kept = []
        for ids in self.encoder.encode(documents(batch, self.recipe, result)):
            if not ids:
                result.filtered["no tokens"] += 1
                continue
            kept.append(numpy.asarray([*ids, self.encoder.eod] if self.recipe.append_eod else ids, dtype=self.dtype))
        result.documents = len(kept)
        if kept:
            result.tokens = numpy.concatenate(kept).tobytes()
            result.lengths = numpy.asarray([len(ids) for ids in kept], dtype=numpy.int32).tobytes()
        return result


_worker: Worker


def _end_with_parent() -> None:
    """The reading process was killed: nobody else ends this one, which waits for batches."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def start_process(recipe: Recipe) -> None:
    """Called once in each tokenizing process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reading process decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = Worker(recipe)


def encode_in_process(batch: Batch) -> Encoded:
    """Worker.__call__ in a process that start_process has prepared."""
    return _worker(batch)
