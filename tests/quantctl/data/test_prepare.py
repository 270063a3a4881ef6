"""`quantctl data prepare`: the same bytes from any container, any number of processes and after a kill."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from tokenizers import Tokenizer

from quantctl.data import part as part_folder
from quantctl.data import shards


def _digests(manifest: Path) -> list[str]:
    return [file["sha256"] for file in json.loads(manifest.read_text())["files"].values()]


@pytest.fixture
def prepare(quantctl: Callable, tokenizer: Path, tmp_path: Path) -> Callable:
    """prepare(source, *options) -> what the command printed; the dataset is OUT_text_document below tmp_path."""

    def run(*arguments: object, out: str = "out", status: int = 0):
        defaults = {"--tokenizer": tokenizer, "--workers": 1}
        if "--train-bpe" in arguments:
            del defaults["--tokenizer"]
        added = [word for option, value in defaults.items() if option not in arguments for word in (option, value)]
        done = quantctl("data", "prepare", *arguments, *added, "--output", tmp_path / out, cwd=tmp_path)
        assert done.status == status, done.err
        return done

    return run


def test_megatron_reads_the_documents(prepare, jsonl, texts, tokenizer, tmp_path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    prepare(jsonl)
    fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    dataset = IndexedDataset(str(tmp_path / "out_text_document"), mmap=True)
    assert len(dataset) == len(texts)
    assert list(dataset.document_indices) == list(range(len(texts) + 1))
    for document, text in zip(dataset, texts, strict=True):
        assert list(document) == [*fast.encode(text).ids, fast.token_to_id("<|endoftext|>")]


def test_files_equal_those_of_megatrons_builder(prepare, jsonl, texts, tokenizer, tmp_path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    prepare(jsonl)
    fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    end = fast.token_to_id("<|endoftext|>")
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(fast.get_vocab_size()))
    for text in texts:
        ids = [*fast.encode(text).ids, end]
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for ending in ("bin", "idx"):
        assert (tmp_path / f"out_text_document.{ending}").read_bytes() == (tmp_path / f"theirs.{ending}").read_bytes()


def _gz(texts: list[str], folder: Path) -> None:
    with gzip.open(folder / "a.json.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def _zst(texts: list[str], folder: Path) -> None:
    from backports import zstd

    # two frames, as parallel compressors write them
    raw = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (folder / "a.jsonl.zst").write_bytes(zstd.compress(raw[:5000]) + zstd.compress(raw[5000:]))


def _parquet(texts: list[str], folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": range(len(texts)), "text": texts})
    parquet.write_table(table, folder / "a.parquet", row_group_size=70)


def _crlf(texts: list[str], folder: Path) -> None:
    (folder / "a.jsonl").write_bytes("".join(json.dumps({"text": text}) + "\r\n\r\n" for text in texts).encode())


def _two_shards(texts: list[str], folder: Path) -> None:
    for name, part in (("b.jsonl", texts[100:]), ("a.jsonl", texts[:100])):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in part).rstrip("\n"))


def _text_files(texts: list[str], folder: Path) -> None:
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)


CONTAINERS = {make.__name__.strip("_"): make for make in (_gz, _zst, _parquet, _crlf, _two_shards, _text_files)}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_dataset(container, prepare, jsonl, texts, tmp_path) -> None:
    prepare(jsonl)
    folder = tmp_path / container
    folder.mkdir()
    CONTAINERS[container](texts, folder)
    prepare(folder, out="other")
    assert _digests(tmp_path / "other_text_document.manifest.json") == _digests(
        tmp_path / "out_text_document.manifest.json"
    )


def test_any_number_of_processes_gives_the_same_dataset(prepare, jsonl, tmp_path, monkeypatch) -> None:
    # many small documents make several batches
    lines = jsonl.read_text() * 40
    jsonl.write_text(lines)
    assert lines.count("\n") > 2 * shards.BATCH_RECORDS
    prepare(jsonl)
    prepare(jsonl, "--workers", 3, out="other")
    assert _digests(tmp_path / "other_text_document.manifest.json") == _digests(
        tmp_path / "out_text_document.manifest.json"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_go_on_where_they_were(workers, prepare, jsonl, tokenizer, tmp_path) -> None:
    jsonl.write_text(jsonl.read_text() * 60)
    prepare(jsonl)
    # each batch is made durable, and the process dies at a random moment
    code = "from quantctl.data import output; output.SYNC_SECONDS = 0; from quantctl.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "prepare", str(jsonl), "--tokenizer", str(tokenizer)]
    command += ["--output", str(tmp_path / "killed"), "--workers", str(workers)]
    chance = random.Random(workers)
    journal = tmp_path / "killed_text_document.part" / "journal.json"
    seen = []
    for _ in range(3):
        before = journal.read_bytes() if journal.exists() else None
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while child.poll() is None and (journal.read_bytes() if journal.exists() else None) == before:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "killed_text_document.bin").exists()
        seen.append(json.loads(journal.read_text())["counts"]["documents"])
    assert sorted(set(seen)) == seen, "each attempt must go on from the one before"
    prepare(jsonl, "--workers", workers, out="killed")
    assert _digests(tmp_path / "killed_text_document.manifest.json") == _digests(
        tmp_path / "out_text_document.manifest.json"
    )
    assert not journal.parent.exists()


def test_malformed_records_are_counted_and_shown(prepare, jsonl, tmp_path, documented) -> None:
    good = jsonl.read_bytes()
    bad = [b"{broken", b"[1]", b'{"id": 1}', b'{"text": 5}', b'{"text": "\\ud800"}', b"\xff\xfe", b'{"text": ""}']
    jsonl.write_bytes(bad[0] + b"\n" + good + b"\n".join(bad[1:]))
    done = prepare(jsonl, "--workers", 1)
    manifest = json.loads((tmp_path / "out_text_document.manifest.json").read_text())
    documented("data prepare", {"schema_version": 1, **manifest})
    counts = manifest["counts"]
    assert counts["documents"] == 300
    assert counts["malformed"] == {
        "not JSON": 1,
        "not a JSON object": 1,
        "no field 'text'": 1,
        "field 'text' is not a string": 1,
        "half a surrogate pair": 1,
        "not UTF-8": 1,
    }
    assert counts["filtered"] == {"empty": 1}
    assert f"{jsonl}: line 1: not JSON" in done.out
    assert "line 302: not a JSON object" in done.out


def test_strict_stops_and_what_was_mended_is_another_job(prepare, jsonl, tmp_path) -> None:
    jsonl.write_text(jsonl.read_text() + "{broken\n")
    done = prepare(jsonl, "--strict", status=1)
    assert "line 301: not JSON" in done.err
    assert not (tmp_path / "out_text_document.bin").exists()
    assert "shards changed" not in done.err


FILTERS = [
    (("--min-chars", 700), lambda text: len(text) >= 700),
    (("--max-chars", 300), lambda text: len(text) <= 300),
    (("--where", "lang=en,de"), lambda text: "the" in text),
]


@pytest.mark.parametrize(("options", "keeps"), FILTERS, ids=["min", "max", "where"])
def test_filters(options, keeps, prepare, texts, tmp_path) -> None:
    source = tmp_path / "shard.jsonl"
    records = [{"text": text, "lang": "en" if "the" in text else "fr"} for text in texts]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare(source, *options)
    kept = sum(map(keeps, texts))
    assert 0 < kept < len(texts)
    counts = json.loads((tmp_path / "out_text_document.manifest.json").read_text())["counts"]
    assert (counts["documents"], sum(counts["filtered"].values())) == (kept, len(texts) - kept)


def test_wikipedia_drops_disambiguation_pages(prepare, texts, tmp_path) -> None:
    source = tmp_path / "wiki_00"
    pages = [*texts[:5], "Mercury may refer to:\n\n" + texts[0], "A bank can also refer to the following:\n" + texts[1]]
    source.write_text("".join(json.dumps({"text": page.ljust(300, ".")}) + "\n" for page in pages))
    prepare(source, "--preset", "wikipedia")
    counts = json.loads((tmp_path / "out_text_document.manifest.json").read_text())["counts"]
    assert counts["filtered"] == {"disambiguation page": 2}


@pytest.mark.parametrize(("split", "documents"), [("file", 1), ("paragraph", 2), ("line", 3)])
def test_plain_text(split, documents, prepare, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\n  \nthree\n")
    prepare(tmp_path / "a.txt", "--text-split", split)
    assert json.loads((tmp_path / "out_text_document.manifest.json").read_text())["counts"]["documents"] == documents


def test_a_tokenizer_is_trained_on_the_spot_and_used_again(prepare, jsonl, tmp_path, texts) -> None:
    prepare(jsonl, "--train-bpe", 500)
    trained = Tokenizer.from_file(str(tmp_path / "out-tokenizer" / "tokenizer.json"))
    assert trained.get_vocab_size() == 500
    assert "nothing to do" in prepare(jsonl, "--train-bpe", 500).err
    assert "trained on other text" in prepare(jsonl, "--train-bpe", 600, status=2).err


def test_sentencepiece(prepare, jsonl, texts, tmp_path) -> None:
    import sentencepiece

    model = tmp_path / "spm"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(model), vocab_size=400, minloglevel=2
    )
    done = prepare(jsonl, "--tokenizer", f"{model}.model")
    assert f"--tokenizer-model {model}.model" in done.out
    assert "quantctl run" not in done.out  # whose scripts take tokenizers of Hugging Face's
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
    expected = [token for text in texts for token in [*processor.encode(text), processor.eos_id()]]
    written = numpy.fromfile(tmp_path / "out_text_document.bin", dtype=numpy.uint16)
    assert written.tolist() == expected


REFUSALS = {
    "no input": (("absent.jsonl",), "absent.jsonl does not exist"),
    "unknown kind": (("a.pdf",), "what kind of file is it?"),
    "empty folder": (("empty",), "holds no shards"),
    "none of the preset's": (("unpacked", "--preset", "dolma"), "it holds a.jsonl, which the preset does not look for"),
    "twice": (("a.jsonl", "a.jsonl"), "is named twice"),
    "no column": (("a.parquet", "--field", "body"), "its columns are id, text"),
    "damaged gzip": (("cut.jsonl.gz",), "cut.jsonl.gz is damaged"),
    "damaged zstd": (("cut.jsonl.zst",), "cut.jsonl.zst is damaged"),
    "no parquet": (("no.parquet",), "no.parquet cannot be read"),
    "nothing left": (("a.jsonl", "--min-chars", 10**6), "no document was left of 1 records"),
    "no tokenizer": (("a.jsonl", "--tokenizer", "empty"), "empty is no tokenizer"),
    "bad tokenizer": (("a.jsonl", "--tokenizer", "a.jsonl"), "is no tokenizer file"),
    "two tokenizers": (("a.jsonl", "--tokenizer", "empty", "--train-bpe", 300), "both were given"),
    "preset": (("a.jsonl", "--preset", "pile"), "choose from: plain, wikipedia, dolma"),
    "where": (("a.jsonl", "--where", "lang"), "FIELD=VALUE"),
    "field": (("a.jsonl", "--field", "a/b"), "--field a/b: it becomes part"),
    "vocabulary": (("a.jsonl", "--train-bpe", 10**20), "is not in the range"),
    "split": (("a.jsonl", "--text-split", "page"), "choose from: file, paragraph, line"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, prepare, texts, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "a.jsonl").touch()
    (tmp_path / "a.pdf").touch()
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": texts[0]}) + "\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 rubbish")
    _parquet(texts, tmp_path)
    for make, name in ((_gz, "a.json.gz"), (_zst, "a.jsonl.zst")):
        make(texts, tmp_path)
        (tmp_path / name.replace("a.json", "cut.json", 1).replace("json.gz", "jsonl.gz")).write_bytes(
            (tmp_path / name).read_bytes()[:-100]
        )
    arguments, message = REFUSALS[case]
    done = prepare(*arguments, status=2)
    assert message in done.err + done.out
    assert not (tmp_path / "out_text_document.bin").exists()


def test_a_refusal_before_any_work_leaves_no_folder(prepare, jsonl, tmp_path) -> None:
    (tmp_path / "out_text_document.bin").touch()
    assert "exists, made from other files" in prepare(jsonl, status=2).err
    assert not (tmp_path / "out_text_document.part").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": '])
def test_a_damaged_manifest_is_named(prepare, jsonl, tmp_path, text) -> None:
    (tmp_path / "out_text_document.manifest.json").write_text(text)
    assert "out_text_document.manifest.json is damaged" in prepare(jsonl, status=2).err


@pytest.mark.parametrize("output", ["", ".", "..", "/"])
def test_an_output_without_a_name(output, quantctl, jsonl, tokenizer, tmp_path) -> None:
    done = quantctl("data", "prepare", jsonl, "--tokenizer", tokenizer, "--output", output, cwd=tmp_path)
    assert (done.status, "names no dataset" in done.err) == (2, True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_outlives_a_stopped_run(number, status, tokenizer, tmp_path) -> None:
    """The workers hold our end of the pipe open: it ends when the last of them has."""
    shard = tmp_path / "a.jsonl"
    shard.write_text('{"text": "a b c"}\n' * 10**6)
    command = ["data", "prepare", shard, "--tokenizer", tokenizer, "--output", tmp_path / "out", "--workers", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "quantctl.cli", *map(str, command)], stderr=subprocess.PIPE, start_new_session=True
    )
    lengths = tmp_path / "out_text_document.part" / "lengths.i32"
    while not (lengths.exists() and lengths.stat().st_size):  # the workers are at it
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    try:
        run.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == status


def test_a_damaged_shard_is_mended_and_only_it_is_read_again(prepare, jsonl, tmp_path) -> None:
    damaged = tmp_path / "b.jsonl.gz"
    with gzip.open(damaged, "wb") as file:
        file.write(jsonl.read_bytes() * 20)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-500])
    assert "b.jsonl.gz is damaged" in prepare(jsonl, damaged, status=2).err
    assert "filters changed" in prepare(jsonl, damaged, "--min-chars", 5, status=2).err
    damaged.write_bytes(whole)
    prepare(jsonl, damaged)
    jsonl.write_bytes(jsonl.read_bytes() * 21)
    prepare(jsonl, out="other")
    assert _digests(tmp_path / "other_text_document.manifest.json") == _digests(
        tmp_path / "out_text_document.manifest.json"
    )


def test_shards_already_read_must_stay_as_they_were(prepare, jsonl, tmp_path) -> None:
    later = tmp_path / "b.jsonl.gz"
    later.write_bytes(gzip.compress(random.Random(0).randbytes(3 << 20))[:-9])  # damaged behind its first batches
    prepare(jsonl, later, status=2)
    jsonl.write_text(jsonl.read_text() + "\n")
    assert f"{jsonl} changed" in prepare(jsonl, later, status=2).err


def test_a_finished_dataset_is_not_overwritten(prepare, jsonl, tmp_path) -> None:
    prepare(jsonl)
    before = (tmp_path / "out_text_document.bin").read_bytes()
    assert "made from other files or with other options" in prepare(jsonl, "--no-append-eod", status=2).err
    assert (tmp_path / "out_text_document.bin").read_bytes() == before


def test_two_at_once_on_one_name(prepare, jsonl, tokenizer, tmp_path) -> None:
    import fcntl

    part = tmp_path / "out_text_document.part"
    part.mkdir()
    with (part / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is preparing" in prepare(jsonl, status=2).err
    prepare(jsonl)


def _job(shards, tokenizer, tmp_path, **options):
    from quantctl.data.encoder import Recipe
    from quantctl.data.filters import Filters
    from quantctl.data.prepare import Job

    recipe = Recipe(tokenizer, "text", Filters(), True, False)
    return Job(shards, tmp_path / "out", recipe, "file", 1, False, **options)


def _replace(path: Path) -> None:
    """Other bytes of the same size and time in a new file."""
    stat = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().swapcase())
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)


def _rewrite(path: Path) -> None:
    """The same in place."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(path.read_bytes().swapcase())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [_replace, _rewrite])
@pytest.mark.parametrize("which", [0, 1])
def test_a_shard_that_is_changed_during_the_run_is_named(
    change, which, texts, tokenizer, tmp_path, monkeypatch
) -> None:
    """While the second is read: the first, which has been, or that very one."""
    from quantctl.data.prepare import prepare as run
    from quantctl.errors import QuantctlError

    monkeypatch.setattr(shards, "BATCH_RECORDS", 50)
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    batches = []

    def progress(counts, position) -> None:
        batches.append(counts.shard)
        if batches.count(1) == 2 and batches[-1] == 1:
            change(paths[which])

    with pytest.raises(QuantctlError, match=f"{paths[which].name} was (changed|written to)"):
        run(_job(paths, tokenizer, tmp_path), {}, progress)
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("change", [_replace, _rewrite])
def test_a_finished_dataset_knows_the_bytes_it_was_made_of(change, prepare, jsonl, tmp_path) -> None:
    prepare(jsonl)
    copy_ = jsonl.with_suffix(".copy")
    copy_.write_bytes(jsonl.read_bytes())
    os.utime(copy_, ns=(jsonl.stat().st_atime_ns, jsonl.stat().st_mtime_ns))
    os.replace(copy_, jsonl)
    assert "nothing to do" in prepare(jsonl).err, "the same bytes in another file"
    change(jsonl)
    assert "whose bytes are others now" in prepare(jsonl, status=2).err


def test_what_somebody_put_into_the_unfinished_dataset_stays(prepare, jsonl, tmp_path) -> None:
    part = tmp_path / "out_text_document.part"
    part.mkdir()
    (part / "thesis.txt").write_text("mine")
    assert "quantctl has not made it" in prepare(jsonl, status=2).err
    assert (part / "thesis.txt").read_text() == "mine"
    (part / "thesis.txt").unlink()
    (part / "lock").write_bytes(part_folder.MARK)
    (part / "thesis.txt").write_text("mine, in a folder of quantctl's")
    prepare(jsonl)
    assert sorted(os.listdir(part)) == ["lock", "thesis.txt"]


def test_the_corrected_command_is_not_blocked(prepare, jsonl, tmp_path) -> None:
    assert "no field 'body'" in prepare(jsonl, "--train-bpe", 300, "--field", "body", status=2).err
    prepare(jsonl, "--min-chars", 10**6, status=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == []
    prepare(jsonl, "--train-bpe", 300)


def test_many_malformed_records_are_a_finding(prepare, jsonl, tmp_path) -> None:
    lines = jsonl.read_bytes().count(b"\n")
    jsonl.write_bytes(jsonl.read_bytes() + b"{broken\n" * lines)
    done = prepare(jsonl, status=1)
    assert f"{lines} of {2 * lines} records are malformed, more than 10 %" in done.err
    assert f"line {lines + 1}: not JSON" in done.err
    assert not (tmp_path / "out_text_document.bin").exists()
    prepare(jsonl, "--max-malformed", 100)


def test_words_are_cut_for_training_only_where_they_are_long() -> None:
    from collections import Counter

    from quantctl.data.bpe import LONGEST_WORD, pieces

    cut: Counter[str] = Counter()
    text = "short words, " * 1000 + "x" * (3 * LONGEST_WORD) + " end"
    parts = list(pieces(text, cut))
    assert ("".join(parts), cut["words"]) == (text, 1)
    assert [len(part) for part in parts[1:-1]] == [LONGEST_WORD] * 3
    assert list(pieces("short", cut)) == ["short"]
