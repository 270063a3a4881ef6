"""The two datasets: what a user has to bring, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """A text corpus that was tokenized into Megatron's indexed format: PREFIX.bin and PREFIX.idx."""

    name: str
    """Command-line name and part of a script's file name."""
    title: str
    """The name people use."""
    source: str
    """Where the raw text comes from."""
    prepare: str
    """What a user does once before training: one JSON object with a `text` field a line is what Megatron-LM's
    tools/preprocess_data.py reads."""
    split: str
    """Shares of training, validation and test documents."""
    sample_path: str
    """A typical DATA_PATH: the prefix, without .bin and .idx."""


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="wikipedia",
            title="English Wikipedia",
            source="huggingface.co/datasets/wikimedia/wikipedia, 20231101.en: 6.4 million articles",
            prepare="export the articles as JSON lines with a text field and tokenize them with "
            "Megatron-LM's tools/preprocess_data.py --append-eod",
            split="990,10,0",
            sample_path="data/wikipedia_text_document",
        ),
        Dataset(
            name="dolma",
            title="Dolma",
            source="huggingface.co/datasets/allenai/dolma, v1_6-sample: 10 billion tokens",
            prepare="unpack the .json.gz shards, join them and tokenize them with "
            "Megatron-LM's tools/preprocess_data.py --append-eod",
            # ten times the text of wikipedia: a thousandth is enough to validate on
            split="999,1,0",
            sample_path="data/dolma_text_document",
        ),
    )
}
"""Name -> dataset."""

STAND_IN_SPLIT = "950,50,0"
"""Split of the prose that a smoke run without a dataset trains on: a hundredth of its few documents would hold no
sequence to validate on."""
