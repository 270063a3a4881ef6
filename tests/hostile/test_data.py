"""What people hand to `data prepare`: damaged, absurd or hostile shards, fields, tokenizers and outputs."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import assert_civil, run

GOOD = b'{"text": "a good line"}\n' * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<|endoftext|>", *alphabet])}, merges=[]))
    made.add_special_tokens(["<|endoftext|>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return file


def _zst(data: bytes) -> bytes:
    from backports.zstd import compress

    return bytes(compress(data))


def _parquet(columns: dict[str, list]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def _gz_of(size: int, unit: bytes) -> bytes:
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1) as file:
        for _ in range(size // len(unit)):
            file.write(unit)
    return sink.getvalue()


# name of the shard -> (bytes, exit status)
SHARDS: dict[str, tuple[Callable[[], bytes], int]] = {
    "empty.jsonl": (lambda: b"", 2),
    "blank.jsonl": (lambda: b"\n \n\t\n" * 1000, 2),
    "nul.jsonl": (lambda: b"\0" * 4096, 2),
    "random.jsonl": (lambda: os.urandom(1 << 16), 2),
    "nul-in-text.jsonl": (lambda: b'{"text": "a\\u0000b"}\n', 0),
    "lone-surrogates.jsonl": (lambda: b'{"text": "\\ud800"}\n{"text": "\\udfff\\ud800"}\n', 2),
    "deep.jsonl": (lambda: b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", 2),
    "deep-objects.jsonl": (lambda: b'{"text":' * 50_000 + b"1" + b"}" * 50_000 + b"\n", 2),
    "wrong-types.jsonl": (lambda: b"\n".join([b"1", b"null", b"[]", b'"text"', b'{"text": 1}', b'{"text": {}}']), 2),
    "digits.jsonl": (lambda: b'{"text": "a", "n": ' + b"9" * 10_000 + b"}\n", 2),
    "numbers.jsonl": (lambda: b'{"text": "a", "n": [NaN, Infinity, 1e999]}\n', 0),
    "half-malformed.jsonl": (lambda: GOOD + b"{broken\n" * 20, 1),
    "utf16.jsonl": (lambda: GOOD.decode().encode("utf-16"), 0),
    "array.json": (lambda: json.dumps([{"text": "a"}] * 100).encode(), 2),
    "twice-the-key.jsonl": (lambda: b'{"text": 1, "text": "a"}\n', 0),
    "no-newline.jsonl": (lambda: GOOD + b'{"text": "cut of', 0),
    "long-line.jsonl": (lambda: GOOD + b'{"text": "' + b"a" * (100 << 20) + b'"}\n' + GOOD, 0),
    "long-line-bomb.jsonl.gz": (lambda: gzip.compress(GOOD) + _gz_of(300 << 20, b"a" * (1 << 20)), 0),
    "long-line-bomb.jsonl.zst": (lambda: _zst(GOOD + b"[" * (100 << 20)), 0),
    "long.txt": (lambda: b"a b " * (25 << 20), 2),
    "cut.jsonl.gz": (lambda: gzip.compress(GOOD)[:-9], 2),
    "cut.jsonl.zst": (lambda: _zst(GOOD * 100)[:-9], 2),
    "no-gzip.jsonl.gz": (lambda: GOOD, 2),
    "no-zstd.jsonl.zst": (lambda: GOOD, 2),
    "behind-gzip.jsonl.gz": (lambda: gzip.compress(GOOD) + b"rubbish", 2),
    "flipped.jsonl.gz": (lambda: (lambda b: b[:20] + bytes([b[20] ^ 255]) + b[21:])(gzip.compress(GOOD)), 2),
    "empty.jsonl.gz": (lambda: b"", 2),
    "no.parquet": (lambda: b"PAR1 rubbish PAR1", 2),
    "empty.parquet": (lambda: b"", 2),
    "cut.parquet": (lambda: _parquet({"text": ["a"] * 1000})[:-20], 2),
    "torn.parquet": (lambda: (lambda b: b[:8] + b"\xff" * 40 + b[48:])(_parquet({"text": ["a b", "c"] * 999})), 2),
    "numbers.parquet": (lambda: _parquet({"text": [1, 2, 3]}), 2),
    "nulls.parquet": (lambda: _parquet({"text": ["a"] * 20 + [None]}), 0),
    "binary.parquet": (lambda: _parquet({"text": [b"\xff\xfe"] * 3}), 2),
    "lists.parquet": (lambda: _parquet({"text": [["a"], ["b"]]}), 2),
    "no-rows.parquet": (lambda: _parquet({"text": []}), 2),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards(name, tokenizer, tmp_path) -> None:
    make, status = SHARDS[name]
    (tmp_path / name).write_bytes(make())
    ended = run(["data", "prepare", name, "--tokenizer", tokenizer, "--output", "out", "--workers", "1"], cwd=tmp_path)
    assert_civil(ended, status)
    assert (tmp_path / "out_text_document.bin").exists() == (status == 0)


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")


def _fifo_in_a_folder(folder: Path) -> None:
    (folder / "shards").mkdir()
    os.mkfifo(folder / "shards" / "pipe.jsonl")


def _folder_like_a_shard(folder: Path) -> None:
    (folder / "folder.jsonl").mkdir()


def _circle(folder: Path) -> None:
    (folder / "circle.jsonl").symlink_to("circle.jsonl")


def _device(folder: Path) -> None:
    (folder / "device.jsonl").symlink_to("/dev/zero")


INPUTS = {
    "a FIFO": (_fifo, "pipe.jsonl"),
    "a FIFO in a folder": (_fifo_in_a_folder, "shards"),
    "a folder with a shard's name": (_folder_like_a_shard, "folder.jsonl"),
    "a circle of links": (_circle, "circle.jsonl"),
    "a device": (_device, "device.jsonl"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_are_no_files(case, tokenizer, tmp_path) -> None:
    arrange, name = INPUTS[case]
    arrange(tmp_path)
    ended = run(["data", "prepare", name, "--tokenizer", tokenizer, "--output", "out"], cwd=tmp_path)
    assert_civil(ended, 2)
    assert not list(tmp_path.glob("out*"))


def _file_in_the_way(folder: Path) -> None:
    (folder / "out_text_document.part").write_text("mine")


def _strangers_folder(folder: Path) -> None:
    (folder / "out_text_document.part").mkdir()
    (folder / "out_text_document.part" / "thesis.txt").write_text("mine")


def _strangers_folder_with_our_names(folder: Path) -> None:
    (folder / "out_text_document.part").mkdir()
    for name in ("tokens.bin", "journal.json", "lock"):
        (folder / "out_text_document.part" / name).write_text("mine")


def _linked_folder(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "out_text_document.part").symlink_to("elsewhere")


def _linked_lock(folder: Path) -> None:
    (folder / "victim").write_text("mine")
    (folder / "out_text_document.part").mkdir()
    (folder / "out_text_document.part" / "lock").symlink_to(folder / "victim")


def _linked_dataset(folder: Path) -> None:
    (folder / "out_text_document.bin").symlink_to(folder / "nowhere")


def _manifest_of_another_kind(folder: Path) -> None:
    (folder / "out_text_document.manifest.json").write_text('{"identity": {"shards": 1}}')
    (folder / "out_text_document.idx").write_text("mine")


OUTPUTS = {
    "a file in the place of the unfinished dataset": (_file_in_the_way, "out"),
    "somebody's folder there": (_strangers_folder, "out"),
    "somebody's folder there, with our names": (_strangers_folder_with_our_names, "out"),
    "a link there": (_linked_folder, "out"),
    "a link in the lock's place": (_linked_lock, "out"),
    "a dangling link in the dataset's place": (_linked_dataset, "out"),
    "a strange manifest": (_manifest_of_another_kind, "out"),
    "below a file": (lambda folder: (folder / "file").write_text("mine"), "file/out"),
    "in /proc": (lambda folder: None, "/proc/out"),
    "a long name": (lambda folder: None, "o" * 300),
}


def _everything(folder: Path) -> dict[str, bytes | str | None]:
    kinds: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        kinds[str(path)] = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes() if path.is_file() else None
    return kinds


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(case, tokenizer, tmp_path) -> None:
    """Refused, and not a byte is another."""
    arrange, output = OUTPUTS[case]
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    arrange(tmp_path)
    before = _everything(tmp_path)
    ended = run(
        ["data", "prepare", "a.jsonl", "--tokenizer", tokenizer, "--output", output, "--workers", "1"], cwd=tmp_path
    )
    assert_civil(ended, 2)
    assert _everything(tmp_path) == before


OPTIONS = {
    "a wrong field": (["--field", "body"], 2),
    "a wrong field to train on": (["--train-bpe", 300, "--field", "body"], 2),
    "a field of 300 characters": (["--field", "f" * 300], 2),
    "a field with a newline": (["--field", "a\nb"], 2),
    "no such tokenizer": (["--tokenizer", "absent"], 2),
    "a device for a tokenizer": (["--tokenizer", "/dev/null"], 2),
    "a damaged tokenizer": (["--tokenizer", "tokenizer.json"], 2),
    "a deep tokenizer": (["--tokenizer", "deep/tokenizer.json"], 2),
    "a damaged sentencepiece model": (["--tokenizer", "broken.model"], 2),
    "a filter that nothing passes": (["--where", "text=" + "x," * 10_000 + "y"], 2),
    "a percentage beyond all": (["--max-malformed", "101"], 2),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, tokenizer, tmp_path) -> None:
    options, status = OPTIONS[case]
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": ')
    (tmp_path / "broken.model").write_bytes(b"\n\x0fnothing" * 100)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "tokenizer.json").write_text("[" * 100_000)
    given = [] if {"--tokenizer", "--train-bpe"} & set(map(str, options)) else ["--tokenizer", tokenizer]
    before = _everything(tmp_path)
    ended = run(["data", "prepare", "a.jsonl", *given, *options, "--output", "out", "--workers", "1"], cwd=tmp_path)
    assert_civil(ended, status)
    assert _everything(tmp_path) == before


def test_a_tokenizer_is_trained_on_one_word_of_200_000_characters(tmp_path) -> None:
    for number, word in enumerate(("ab" * 100_000, "1½" * 100_000, "-" * 200_000, " " * 200_000)):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": f"before {word} behind"}) + "\n")
    ended = run(["data", "prepare", tmp_path, "--train-bpe", "400", "--output", "out", "--workers", "1"], cwd=tmp_path)
    assert_civil(ended, 0)
    assert "4 words of more than 1,000 characters" in ended.err
