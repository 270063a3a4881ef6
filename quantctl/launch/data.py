"""What a script trains on: the user's dataset and tokenizer, flags in place of them, or a smoke run's own prose."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.launch.arguments import Called
from quantctl.launch.flags import Flags, among
from quantctl.script.architecture import Model
from quantctl.script.datasets import STAND_IN_SPLIT, Dataset

_OWN_DATA = ("--mock-data", "--data-path", "--data-args-path", "--train-data-path", "--per-split-data-args-path")
_OWN_TOKENIZER = ("--tokenizer-type", "--tokenizer-model")
_A_DATASET_A_PART = ("--train-data-path", "--per-split-data-args-path")

Missing = Callable[[str, str], None]
"""Called with a message and a hint: stops a real run, is only said in a dry one."""


def add(
    flags: Flags,
    called: Called,
    model: Model,
    dataset: Dataset,
    smoke: bool,
    python: str,
    dry: bool,
    missing: Missing,
    say: Callable[[str], None],
) -> None:
    """Put --data-path and the tokenizer's flags among a script's own, around its --num-workers and --split.

    A smoke run that was given neither trains on the corpus that `data.corpus` builds. Raises QuantctlError for what
    is not there.
    """
    own_data, own_tokenizer = among(called.trailing, *_OWN_DATA), among(called.trailing, *_OWN_TOKENIZER)
    tokenizer, prefix = called.get("TOKENIZER"), called.get("DATA_PATH")
    if smoke and not (own_data or own_tokenizer or tokenizer or prefix):
        say(f"no DATA_PATH: prose from the Python documentation stands in for {dataset.title}")
        tokenizer = _corpus(python, dry)
        prefix = f"{tokenizer}/text_document"
        flags.put("--split", STAND_IN_SPLIT)
    elif not own_data:
        prefix = _dataset(prefix, dataset, missing)
    if not own_data:
        flags.behind("--num-workers", ["--data-path", prefix])
    if not own_tokenizer:
        tokenizer = _tokenizer(tokenizer, model, dry, missing)
        behind = ("--tokenizer-type", "HuggingFaceTokenizer"), ("--tokenizer-model", tokenizer)
        flags.behind("--split", *behind)
    # a dataset a part leaves nothing to split, and Megatron rejects both
    if among(called.trailing, *_A_DATASET_A_PART):
        flags.drop("--split")


def _corpus(python: str, dry: bool) -> str:
    """The folder of the stand-in; built by the Python that trains, whose packages make it, unless nothing is to run."""
    command = [python, "-m", "quantctl.data.corpus", *(["--where"] if dry else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise QuantctlError(
            f"`{' '.join(command)}` ended with exit status {done.returncode}",
            "the lines above say why; a DATA_PATH and TOKENIZER of your own need no stand-in",
        )
    return done.stdout.strip()


def _dataset(prefix: str, dataset: Dataset, missing: Missing) -> str:
    if not prefix:
        missing(
            "no DATA_PATH (fourth argument, environment or --data)",
            f"give Megatron's indexed dataset of {dataset.title} without .bin, e.g. {dataset.sample_path}",
        )
        return dataset.sample_path
    if not all(Path(f"{prefix}{ending}").is_file() for ending in (".bin", ".idx")):
        missing(
            f"DATA_PATH={prefix}: there is no {prefix}.bin with its .idx",
            f"give the path of both files without their ending, e.g. {dataset.sample_path}",
        )
    return prefix


def _tokenizer(tokenizer: str, model: Model, dry: bool, missing: Missing) -> str:
    if not tokenizer:
        missing(
            "no TOKENIZER (third argument, environment or --tokenizer)",
            f"give the one that made the dataset: a directory or a Hugging Face name, e.g. {model.tokenizer}",
        )
        return model.tokenizer
    if tokenizer[0] in "./~" and not dry and not Path(tokenizer).exists():
        raise QuantctlError(
            f"TOKENIZER={tokenizer} does not exist",
            f"give a directory or a Hugging Face name, e.g. {model.tokenizer}",
        )
    return tokenizer
