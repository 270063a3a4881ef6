"""Training a byte-level BPE tokenizer on the spot."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quantctl.outside.packages import require

END_OF_DOCUMENT = "<|endoftext|>"


LONGEST_WORD = 1000
"""Characters: the time that training takes for a word grows with its square."""
# whatever the byte-level rules take for one word lies within one of these: letters and digits, signs, spaces
_LONG = re.compile(rf"[^\W_]{{{LONGEST_WORD + 1},}}|(?:[^\w\s]|_){{{LONGEST_WORD + 1},}}|\s{{{LONGEST_WORD + 1},}}")


def pieces(text: str, cut: Counter[str]) -> Iterator[str]:
    """`text` as it is, or in pieces in which no word is longer than LONGEST_WORD; `cut` counts the words that were."""
    done = 0
    for match in _LONG.finditer(text):
        cut["words"] += 1
        yield text[done : match.start()]
        for start in range(match.start(), match.end(), LONGEST_WORD):
            yield text[start : min(start + LONGEST_WORD, match.end())]
        done = match.end()
    yield text[done:]


def train_bpe(texts: Iterable[str], vocabulary: int, file: Path, cut: Counter[str] | None = None) -> Any:
    """A `tokenizers` Tokenizer of `vocabulary` tokens (256 bytes and <|endoftext|> among them), saved to `file`.

    It depends on the texts and their order only. cut: gets the number of words that were longer than LONGEST_WORD, and
    were cut for the training; the tokenizer itself cuts none. Raises QuantctlError without the tokenizers package.
    """
    require("training a tokenizer", {"data": ("tokenizers",)})
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    cut = Counter() if cut is None else cut
    tokenizer.train_from_iterator((piece for text in texts for piece in pieces(text, cut)), trainer)
    tokenizer.save(str(file))
    return tokenizer


def write_config(folder: Path) -> None:
    """tokenizer_config.json beside tokenizer.json: what transformers needs to load it, and Megatron-LM its end token.

    Without it transformers 4 finds no class, and the tokenizers of Megatron-LM from 0.15 on have an `eos` of None.
    """
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
