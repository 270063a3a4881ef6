"""Small shards of real prose, and a tokenizer trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantctl.data.bpe import train_bpe
from quantctl.data.corpus import documents


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """300 documents of a few hundred characters."""
    pieces = [text[at : at + 700] for text in documents() for at in range(0, len(text), 700)]
    return pieces[:300]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face tokenizer's folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(texts, 600, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )
    return folder


@pytest.fixture
def jsonl(texts: list[str], tmp_path: Path) -> Path:
    """The documents as JSON lines."""
    file = tmp_path / "shard.jsonl"
    file.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    return file
