"""What the trainer needs of a tokenizer: how many tokens there are, and which one ends a document."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.outside.packages import require

# names under which public tokenizers know the end of a document, the most specific first
_END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "</s>",
    "<eos>",
    "<|eot_id|>",
)


class Tokenizer:
    """The part of Megatron's tokenizer interface that GPTDataset reads; without a `pad`, so no token is masked."""

    def __init__(self, name: str, vocab_size: int, eod: int, vocab_file: str | None = None) -> None:
        self.vocab_size = vocab_size
        self.eod = eod
        self.unique_identifiers = {"class": name, "tokenizer_path": [vocab_file] if vocab_file else []}


def end_of_document(tokenizer: Any, file: Path) -> int:
    """The id that ends a document. Raises QuantctlError when neither the file nor its config names such a token."""
    names = list(_END_NAMES)
    config = file.with_name("tokenizer_config.json")
    if config.is_file():
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
        names.insert(0, declared["content"] if isinstance(declared, dict) else declared)
    for name in names:
        token = tokenizer.token_to_id(name) if name else None
        if token is not None:
            return token
    raise QuantctlError(
        f"{file} has no token that ends a document (tried {', '.join(str(name) for name in names)})",
        f"name it as eos_token in {config.name} beside it",
    )


def read_fast(file: Path) -> Any:
    """The `tokenizers` object of a tokenizer.json. Raises QuantctlError when it is none."""
    require(f"{file}", {"data": ("tokenizers",)})
    from tokenizers import Tokenizer as Fast

    try:
        return Fast.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for files it cannot read
        raise QuantctlError(f"{file} is no tokenizer file: {error}", "give a tokenizer.json") from error


def _hugging_face(args: argparse.Namespace) -> Tokenizer:
    if not args.tokenizer_model:
        raise QuantctlError(
            "--tokenizer-type HuggingFaceTokenizer needs --tokenizer-model", "give tokenizer.json's path"
        )
    path = Path(args.tokenizer_model)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise QuantctlError(
            f"--tokenizer-model {path}: no {file.name} there",
            "give a tokenizer.json or the folder that holds it; names of online models are not looked up",
        )
    tokenizer = read_fast(file)
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Tokenizer("HuggingFaceTokenizer", size, end_of_document(tokenizer, file), str(path))


def _null(args: argparse.Namespace) -> Tokenizer:
    """Megatron-LM's NullTokenizer: the numbers below --vocab-size, and one more that ends a document."""
    if args.vocab_size is None:
        raise QuantctlError("--tokenizer-type NullTokenizer needs --vocab-size", "give the number of tokens")
    return Tokenizer("NullTokenizer", args.vocab_size + 1, args.vocab_size)


BUILDERS = {"HuggingFaceTokenizer": _hugging_face, "NullTokenizer": _null}


def build_tokenizer(args: argparse.Namespace) -> Tokenizer:
    """The tokenizer of --tokenizer-type; sets `args.padded_vocab_size`.

    The padded size is the smallest multiple of --make-vocab-size-divisible-by x tensor parallel size that holds the
    tokenizer's vocabulary, as in Megatron-LM's tokenizer.py.
    """
    tokenizer = BUILDERS[args.tokenizer_type](args)
    multiple = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
    args.padded_vocab_size = -(-tokenizer.vocab_size // multiple) * multiple
    return tokenizer
