"""`quantctl data prepare`: raw text to Megatron's indexed dataset."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from quantctl import output
from quantctl.commands._options import Choice, Group
from quantctl.data.presets import PRESETS
from quantctl.errors import QuantctlError, unknown
from quantctl.outside.packages import require

_LINE_SECONDS = 10.0
"""Seconds between two lines of progress where no terminal shows a bar."""
_SAMPLE_MB = 100
_MOST_TOKENS = 10**7
"""Far above any tokenizer; the trainer asks for this much memory at once, and is ended if there is less."""
_PACKAGES = ("quantctl", "tokenizers", "sentencepiece", "pyarrow", "backports.zstd", "numpy")


@click.group("data", cls=Group, short_help="raw text to Megatron's indexed dataset")
def command() -> None:
    """Raw text to Megatron's indexed dataset."""


def _where(given: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    pairs = []
    for text in given:
        field, equals, values = text.partition("=")
        if not (field and equals and values):
            raise QuantctlError(f"--where {text}: what is compared?", "write it as FIELD=VALUE or FIELD=VALUE,VALUE")
        pairs.append((field, tuple(values.split(","))))
    return tuple(pairs)


class _Progress:
    """A bar on a terminal, else a line every ten seconds: documents, rate, time left."""

    def __init__(self, shards: list[Path]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.before = [0]
        for shard in shards:
            self.before.append(self.before[-1] + shard.stat().st_size)
        self.console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.description}"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=self.before[-1])
        self.started = self.shown = time.monotonic()
        self.first: tuple[int, int] | None = None

    def __call__(self, counts: Any, position: int) -> None:
        now = time.monotonic()
        done = self.before[counts.shard] + position
        if self.first is None:
            self.first = (done, counts.text_bytes)
            self.started = now
            self.bar.reset(self.task, completed=done)
            return
        seconds = max(now - self.started, 1e-9)
        rate = (counts.text_bytes - self.first[1]) / seconds / 1e6
        line = f"{counts.documents:,} documents, {counts.tokens:,} tokens, {rate:.1f} MB/s"
        self.bar.update(self.task, completed=done, description=line)
        if not self.console.is_terminal and now - self.shown > _LINE_SECONDS:
            left = (self.before[-1] - done) * seconds / max(done - self.first[0], 1)
            output.say(f"{100 * done / max(self.before[-1], 1):3.0f} %  {line}, {left:,.0f} s left")
            self.shown = now


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What the system refuses is no bug of quantctl: names of the file, or of `path`, and what the system says."""
    try:
        yield
    except OSError as error:
        raise QuantctlError(
            f"{error.filename or path}: {error.strerror or error}",
            "what is done is kept: mend this, then run it again",
        ) from error


def _show(manifest: dict[str, Any], prefix: Path, found: bool) -> None:
    from quantctl.data.prepare import summary

    counts = manifest["counts"]
    if found:
        output.say("nothing to do: this dataset was prepared before, from these files with these options")
    rate = counts["text_bytes"] / max(counts["seconds"], 1e-9) / 1e6
    rows = [
        ("dataset", f"{prefix}.bin, .idx ({manifest['dtype']}), .manifest.json"),
        ("documents", f"{counts['documents']:,} of {counts['records']:,} records"),
        ("tokens", f"{counts['tokens']:,}"),
        ("time", f"{counts['seconds']:.1f} s, {rate:.1f} MB of text a second"),
    ]
    if counts["filtered"]:
        rows.append(("left out", summary(counts["filtered"])))
    if counts["malformed"]:
        rows.append(("malformed", summary(counts["malformed"])))
    rows += [("", example) for example in counts["examples"]]
    click.echo(output.columns([*rows, *_training(str(prefix), manifest["tokenizer"])]))


def _training(prefix: str, tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How to train on the dataset: with quantctl's scripts, which take tokenizers of Hugging Face's, or Megatron."""
    kind, file = tokenizer["megatron_type"], tokenizer["file"]
    flags = {"--data-path": prefix, "--tokenizer-type": kind, "--tokenizer-model": file}
    lines = [shlex.join(pair) for pair in flags.items()]
    rows = [("Megatron" if not number else "", line) for number, line in enumerate(lines)]
    rows = [(name, f"{line} \\" if line != lines[-1] else line) for name, line in rows]
    if kind != "HuggingFaceTokenizer":
        return rows
    place = str(Path(file).parent) if Path(file).name == "tokenizer.json" else file
    own = shlex.join(["--data", prefix, "--tokenizer", place])
    return [("train with", "quantctl run --model NAME --mode MODE \\"), ("", own), *rows]


def _needed(shards: list[Path], tokenizer: Path | None) -> list[str]:
    """The modules that read these shards and this tokenizer."""
    endings = {suffix for shard in shards for suffix in shard.suffixes}
    by_ending = {".parquet": "pyarrow", ".zst": "backports.zstd"}
    reads = "sentencepiece" if tokenizer is not None and tokenizer.suffix == ".model" else "tokenizers"
    return ["numpy", reads, *(module for ending, module in by_ending.items() if ending in endings)]


@command.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER...")
@click.option(
    "--output",
    "prefix",
    required=True,
    type=click.Path(path_type=Path),
    help="The dataset becomes OUTPUT_<field>_document.bin and .idx.",
)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="Hugging Face folder, tokenizer.json or sentencepiece .model."
)
@click.option(
    "--train-bpe",
    type=click.IntRange(257, _MOST_TOKENS),
    metavar="SIZE",
    help="Train a byte-level BPE of SIZE tokens on the text instead.",
)
@click.option(
    "--sample-mb",
    type=click.IntRange(min=1),
    default=_SAMPLE_MB,
    show_default=True,
    help="Text that --train-bpe learns from.",
)
@click.option(
    "--preset",
    type=Choice(list(PRESETS)),
    default="plain",
    show_default=True,
    help="Shards, field and filters that fit it.",
)
@click.option("--field", help="Field or column that holds the text.  [default: the preset's]")
@click.option("--min-chars", type=click.IntRange(min=1), help="Leave out documents with fewer characters.")
@click.option("--max-chars", type=click.IntRange(min=1), help="Leave out documents with more characters.")
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE[,VALUE]",
    help="Keep only records with such a value; may be repeated.",
)
@click.option(
    "--text-split",
    default="file",
    show_default=True,
    help="What a document of a .txt file is: file, paragraph or line.",
)
@click.option(
    "--append-eod/--no-append-eod",
    default=True,
    show_default=True,
    help="End each document with the tokenizer's end-of-document.",
)
@click.option(
    "--special-tokens/--no-special-tokens",
    default=False,
    show_default=True,
    help="Add what the tokenizer puts around a text by itself (Llama 3's BOS).",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Tokenizing processes.  [default: the cores of this machine]"
)
@click.option(
    "--max-malformed",
    type=click.FloatRange(0, 100),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="With more malformed records nothing is finished, and the exit status is 1.",
)
@click.option("--strict", is_flag=True, help="Stop at the first malformed record, with exit status 1.")
@click.pass_context
def prepare(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    prefix: Path,
    tokenizer: Path | None,
    train_bpe: int | None,
    sample_mb: int,
    preset: str,
    field: str | None,
    min_chars: int | None,
    max_chars: int | None,
    where: tuple[str, ...],
    text_split: str,
    append_eod: bool,
    special_tokens: bool,
    workers: int | None,
    max_malformed: float,
    strict: bool,
) -> None:
    """Tokenize JSON lines, parquet or plain text (also .gz and .zst) into one dataset.

    \b
    quantctl data prepare shards/ --preset dolma --tokenizer Llama-3.1-8B \\
        --output data/dolma
    quantctl data prepare dump.jsonl.zst --train-bpe 32000 --output data/mine

    Folders are searched for shards, which are read in the order of their names. The result is the same for every
    number of workers. A run that was interrupted or killed goes on when the same command is given again. Malformed
    records, those of more than 16 MiB among them, are counted, shown and left out.
    """
    from quantctl.data.shards import SPLITS, find
    from quantctl.runs.provenance import package_versions

    if text_split not in SPLITS:
        raise unknown("--text-split", text_split, SPLITS)
    if (tokenizer is None) == (train_bpe is None):
        both = "both were" if tokenizer else "neither was"
        raise QuantctlError(f"--tokenizer or --train-bpe: {both} given", "give one of them")
    chosen = PRESETS[preset]
    given: dict[str, Any] = {"min_chars": min_chars, "max_chars": max_chars, "where": _where(where) or None}
    filters = replace(chosen.filters, **{key: value for key, value in given.items() if value is not None})
    with _refusing(inputs[0]):
        shards = find(inputs, chosen.shards)
    require("data prepare", {"data": _needed(shards, tokenizer)})
    from quantctl.data.encoder import Recipe
    from quantctl.data.prepare import Job, train_tokenizer
    from quantctl.data.prepare import prepare as run

    name = field or chosen.text_field
    if "/" in name:
        raise QuantctlError(f"--field {name}: it becomes part of a file's name", "rename the field to one without /")
    if prefix.name in ("", ".."):
        raise QuantctlError(f"--output {prefix} names no dataset", "write it as FOLDER/NAME, such as data/mine")
    dataset = prefix.with_name(f"{prefix.name}_{name}_document")
    folder = prefix.with_name(f"{prefix.name}-tokenizer") if tokenizer is None else tokenizer
    recipe = Recipe(folder, name, filters, append_eod, special_tokens)
    job = Job(shards, dataset, recipe, text_split, workers or len(os.sched_getaffinity(0)), strict, max_malformed)
    output.say(f"shards: {len(shards)}, {sum(path.stat().st_size for path in shards) / 1e6:,.1f} MB")
    progress = _Progress(shards)
    with _refusing(dataset):
        if train_bpe is not None:
            train_tokenizer(job, train_bpe, sample_mb * 10**6, folder)
        with progress.bar:
            manifest, found = run(job, {"packages": package_versions(_PACKAGES)}, progress)
    if ctx.obj["json"]:
        output.data(manifest)
    else:
        _show(manifest, dataset, found)
