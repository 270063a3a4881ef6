"""Training a byte-level BPE tokenizer on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError

END_OF_DOCUMENT = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocabulary: int, file: Path) -> Any:
    """A `tokenizers` Tokenizer of `vocabulary` tokens (256 bytes and <|endoftext|> among them), saved to `file`.

    It depends on the texts and their order only. Raises QuantctlError without the tokenizers package.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise QuantctlError(
            "training a tokenizer needs the tokenizers package", "pip install 'quantctl[data]'"
        ) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(file))
    return tokenizer
