"""The smoke corpus: English prose that every Python ships, as a Megatron indexed dataset with its own tokenizer.

    python -m quantctl.data.corpus            build it once and print its folder
    python -m quantctl.data.corpus --where    print the folder, build nothing

The folder holds tokenizer.json (byte-level BPE, `tokenizers`) with its tokenizer_config.json, and
text_document.{bin,idx} (IndexedDataset, uint16, one document for each topic of Python's documentation, an
end-of-document token after each). What is built depends on the text and the constants below only, so two machines with
the same Python train on the same tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quantctl.data.bpe import END_OF_DOCUMENT, write_config
from quantctl.errors import QuantctlError, exit_with

VOCABULARY = 2048
PREFIX = "text_document"
_LAYOUT = 1  # raise it when the tokens change, so that an older folder is not taken for the new one
_CONFIG = "tokenizer_config.json"
_FILES = ("tokenizer.json", _CONFIG, f"{PREFIX}.bin", f"{PREFIX}.idx")


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


def _write(texts: Sequence[str], folder: Path) -> None:
    """The tokenizer, and PREFIX.bin and .idx: each text as a document with the end-of-document token behind it."""
    import numpy

    from quantctl.data.bpe import train_bpe
    from quantctl.data.index import write_index

    tokenizer = train_bpe(texts, VOCABULARY, folder / "tokenizer.json")
    write_config(folder)
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    ids = [numpy.array([*encoding.ids, end], dtype=numpy.uint16) for encoding in tokenizer.encode_batch(texts)]
    (folder / f"{PREFIX}.bin").write_bytes(numpy.concatenate(ids).tobytes())
    with (folder / f"{PREFIX}.idx").open("wb") as index:
        write_index(index, numpy.array([len(document) for document in ids], dtype=numpy.int32), numpy.uint16)


def build(folder: Path) -> Path:
    """Build the corpus in `folder` unless it is there, and return `folder`.

    Several processes may do this at once: each writes a folder of its own, the first to rename it wins.
    """
    if is_built(folder):
        return folder
    earlier = folder.is_dir() and all((folder / name).is_file() for name in _FILES if name != _CONFIG)
    if not earlier and folder.exists() and any(folder.iterdir()):
        raise QuantctlError(f"{folder} exists and is no complete corpus", "remove it, or give another --output")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if earlier:  # built before there was a configuration
            write_config(draft)
            os.replace(draft / _CONFIG, folder / _CONFIG)
            return folder
        _write(documents(), draft)
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
    parser = argparse.ArgumentParser(prog="python -m quantctl.data.corpus", description="Build the smoke corpus.")
    parser.add_argument("--where", action="store_true", help="print its folder and build nothing")
    parser.add_argument("--output", type=Path, metavar="DIR", help="its folder (default: in the user's cache)")
    options = parser.parse_args(argv)
    folder = options.output or default_folder()
    print(folder if options.where else build(folder))


if __name__ == "__main__":
    exit_with(main)
