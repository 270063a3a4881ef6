"""Tokenizers and datasets as they are given: what is read, and what is refused before anything is built."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from quantctl.data.tokenizer import build_tokenizer
from quantctl.errors import QuantctlError
from quantctl.pretrain.data import _check_files, _check_split, sample_counts

pytestmark = pytest.mark.filterwarnings("ignore:Transformer Engine and Apex")


def _args(**given: object) -> argparse.Namespace:
    defaults = {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": None, "vocab_size": None}
    sizes = {"make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 1}
    return argparse.Namespace(**defaults | sizes | given)


def _write_tokenizer(folder: Path, *tokens: str) -> Path:
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("size", "divisor", "ranks", "padded"),
    [(255, 128, 1, 256), (256, 128, 1, 384), (999, 128, 4, 1024), (1000, 1, 1, 1001), (1000, 1, 2, 1002)],
)
def test_the_vocabulary_is_padded_as_in_megatron(size, divisor, ranks, padded) -> None:
    args = _args(tokenizer_type="NullTokenizer", vocab_size=size, make_vocab_size_divisible_by=divisor)
    args.tensor_model_parallel_size = ranks
    tokenizer = build_tokenizer(args)
    assert (tokenizer.vocab_size, tokenizer.eod, args.padded_vocab_size) == (size + 1, size, padded)


@pytest.mark.parametrize(
    ("tokens", "config", "eod"),
    [
        (("a", "</s>", "<|endoftext|>"), None, 2),
        (("a", "</s>", "b"), None, 1),
        (("a", "</s>", "b"), {"eos_token": "b"}, 2),
        (("a", "</s>", "b"), {"eos_token": {"content": "b"}}, 2),
        (("a", "</s>", "b"), {"eos_token": None}, 1),
    ],
    ids=["most specific", "common", "declared", "declared as an object", "declared as nothing"],
)
def test_the_end_of_a_document_is_found(tmp_path, tokens, config, eod) -> None:
    folder = _write_tokenizer(tmp_path, *tokens)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = build_tokenizer(_args(tokenizer_model=str(path)))
        assert (tokenizer.vocab_size, tokenizer.eod) == (3, eod)
        assert not hasattr(tokenizer, "pad")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs --tokenizer-model"),
        ({"tokenizer_model": "gpt2"}, "--tokenizer-model gpt2: no gpt2 there"),
        ({"tokenizer_model": "."}, "no tokenizer.json there"),
        ({"tokenizer_model": "broken.json"}, "is no tokenizer file"),
        ({"tokenizer_model": "endless"}, "has no token that ends a document"),
        ({"tokenizer_type": "NullTokenizer"}, "needs --vocab-size"),
    ],
)
def test_tokenizers_that_are_refused(tmp_path, monkeypatch, given, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{}")
    Path("endless").mkdir()
    _write_tokenizer(Path("endless"), "a", "b")
    with pytest.raises(QuantctlError) as refused:
        build_tokenizer(_args(**given))
    assert message in refused.value.message
    assert refused.value.hint


@pytest.fixture
def dataset(tmp_path) -> str:
    """The prefix of an indexed dataset of ten documents."""
    import numpy
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{tmp_path}/ten.bin", dtype=numpy.uint16)
    for i in range(10):
        builder.add_document(torch.arange(i + 1), [i + 1])
    builder.finalize(f"{tmp_path}/ten.idx")
    return f"{tmp_path}/ten"


def test_missing_files_are_named(dataset) -> None:
    _check_files([dataset])
    Path(f"{dataset}.idx").unlink()
    with pytest.raises(QuantctlError, match=r"--data-path .*/ten: .*/ten\.idx does not exist"):
        _check_files([dataset])


@pytest.mark.parametrize(
    ("split", "empty"),
    [("9,1,0", None), ("8,1,1", None), ("1,0,0", None), ("99,1,0", "validation"), ("9,1,0.1", "test")],
)
def test_a_part_without_documents_is_refused(dataset, split, empty) -> None:
    from megatron.core.datasets.blended_megatron_dataset_config import (
        convert_split_vector_to_split_matrix,
        parse_and_normalize_split,
    )

    matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(split))
    if empty is None:
        _check_split([dataset], split, matrix)
        return
    with pytest.raises(QuantctlError, match=f"leaves the {empty} part none of the 10 documents"):
        _check_split([dataset], split, matrix)


def test_samples_are_counted_as_in_megatron() -> None:
    args = argparse.Namespace(train_iters=100, global_batch_size=8, eval_iters=4, eval_interval=30)
    # training; three validations and one after it; test
    assert sample_counts(args) == (800, (3 + 1) * 4 * 8, 4 * 8)
