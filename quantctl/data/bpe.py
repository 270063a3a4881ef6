"""Training a byte-level BPE tokenizer on the spot."""

from __future__ import annotations

import json
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


def write_config(folder: Path) -> None:
    """tokenizer_config.json beside tokenizer.json: what transformers needs to load it, and Megatron-LM its end token.

    Without it transformers 4 finds no class, and the tokenizers of Megatron-LM from 0.15 on have an `eos` of None.
    """
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
