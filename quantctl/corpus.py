"""The smoke corpus: English prose that every Python ships, as a Megatron indexed dataset with its own tokenizer.

    python -m quantctl.corpus            build it once and print its folder
    python -m quantctl.corpus --where    print the folder, build nothing

The folder holds tokenizer.json (byte-level BPE, `tokenizers`) and text_document.{bin,idx} (IndexedDataset, uint16,
one document for each topic of Python's documentation, an end-of-document token after each). What is built depends on
the text and the constants below only, so two machines with the same Python train on the same tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.exits import exit_with

VOCABULARY = 2048
END_OF_DOCUMENT = "<|endoftext|>"
PREFIX = "text_document"
_LAYOUT = 1  # raise it when what is written changes, so that an older folder is not taken for the new one
_FILES = ("tokenizer.json", f"{PREFIX}.bin", f"{PREFIX}.idx")


def documents() -> list[str]:
    """The topics' texts in the order of their names."""
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics)]


def default_folder() -> Path:
    """Where the corpus lies unless told otherwise; the name pins its content."""
    from platformdirs import user_cache_path

    digest = hashlib.sha256(f"{_LAYOUT}\0{VOCABULARY}\0{END_OF_DOCUMENT}".encode())
    for text in documents():
        digest.update(b"\0" + text.encode())
    return user_cache_path("quantctl") / "corpus" / f"pydoc-{VOCABULARY}-{digest.hexdigest()[:12]}"


def is_built(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _train_tokenizer(texts: Sequence[str], path: Path) -> list[list[int]]:
    """Write tokenizer.json and return the token ids of each text, end-of-document included."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise QuantctlError("the corpus needs the tokenizers package", "pip install 'quantctl[megatron]'") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    end: int = tokenizer.token_to_id(END_OF_DOCUMENT)  # type: ignore[assignment]  # it was just trained in
    return [[*encoding.ids, end] for encoding in tokenizer.encode_batch(texts)]


def _write_dataset(token_ids: Sequence[Sequence[int]], prefix: Path) -> None:
    """Write PREFIX.bin and PREFIX.idx with Megatron's own builder, from the tree in use."""
    from quantctl.tree import find_tree

    warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
    sys.path.insert(0, str(find_tree(None).root))
    try:
        import numpy
        import torch
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    except ImportError as error:
        raise QuantctlError(
            f"the corpus is written by megatron-core, which does not import: {error}",
            "pip install 'quantctl[megatron]'",
        ) from error
    finally:
        sys.path.pop(0)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.uint16)
    for ids in token_ids:
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def build(folder: Path) -> Path:
    """Build the corpus in `folder` unless it is there, and return `folder`.

    Several processes may do this at once: each writes a folder of its own, the first to rename it wins.
    """
    if is_built(folder):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise QuantctlError(f"{folder} exists and is no complete corpus", "remove it, or give another --output")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        token_ids = _train_tokenizer(documents(), draft / "tokenizer.json")
        _write_dataset(token_ids, draft / PREFIX)
        draft.chmod(0o755)
        try:
            os.replace(draft, folder)
        except OSError:
            if not is_built(folder):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.corpus", description="Build the smoke corpus.")
    parser.add_argument("--where", action="store_true", help="print its folder and build nothing")
    parser.add_argument("--output", type=Path, metavar="DIR", help="its folder (default: in the user's cache)")
    options = parser.parse_args(argv)
    folder = options.output or default_folder()
    print(folder if options.where else build(folder))


if __name__ == "__main__":
    exit_with(main)
