"""A larger corpus than the smoke one: the documentation in the sources of installed packages.

    python -m quantctl.data.docstrings                  build it once and print its folder
    python -m quantctl.data.docstrings --lines FILE     write its text as JSON lines, build nothing

The folder holds docs.jsonl and what `quantctl data prepare --train-bpe` makes of it: docs_text_document.{bin,idx} and
docs-tokenizer.

The docstrings of modules, classes and functions of PACKAGES: English prose about mathematics and data with examples,
some 17 million characters, all under the BSD-3-Clause licence. A document is a source file's, in the order of their
paths; texts that occurred before are left out. What is written depends on the packages' versions only, which
constraints.txt pins; no network and no account are needed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError, exit_with

VOCABULARY = 2048
"""Tokens, as many as the smoke corpus has."""
PACKAGES = ("networkx", "numpy", "pandas", "sympy", "torch")
SHORTEST = 200
"""Characters of a docstring that counts as prose."""
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise QuantctlError(f"{package} is not installed", "pip install 'quantctl[dev]' brings it")
    return Path(found.submodule_search_locations[0])


def _docstrings(source: Path) -> Iterator[str]:
    """Those of a file, in the order of the syntax tree; none of a file that this Python cannot parse."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
        if text is not None and len(text) >= SHORTEST:
            yield text


def documents(packages: Sequence[str] = PACKAGES) -> Iterator[dict[str, str]]:
    """`text` and `source` of each file that documents something. Raises QuantctlError for a package that is absent."""
    seen: set[bytes] = set()
    for package in packages:
        folder = _folder(package)
        for source in sorted(folder.rglob("*.py")):
            new = []
            for text in _docstrings(source):
                digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
                if digest not in seen:
                    seen.add(digest)
                    new.append(text)
            if new:
                yield {"text": "\n\n".join(new), "source": source.relative_to(folder.parent).as_posix()}


def _write(lines: Path) -> None:
    write_new(lines, "".join(json.dumps(one) + "\n" for one in documents()).encode())


def default_folder() -> Path:
    """Where the corpus lies; the name says of which versions it is made."""
    from platformdirs import user_cache_path

    for name in PACKAGES:
        _folder(name)
    named = "-".join(f"{name}{version(name).partition('+')[0]}" for name in PACKAGES)
    return user_cache_path("quantctl") / "corpus" / f"docstrings-{VOCABULARY}-{named}"


def build(folder: Path) -> Path:
    """Build the corpus in `folder` unless it is there, and return `folder`."""
    if not (folder / "docs_text_document.idx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = folder / "docs.jsonl"
        if not lines.exists():
            _write(lines)
        words = ["data", "prepare", str(lines), "--train-bpe", str(VOCABULARY), "--output", str(folder / "docs")]
        subprocess.run([sys.executable, "-m", "quantctl", *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.data.docstrings", description="Build the larger corpus.")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="write JSON lines with the fields text and source")
    options = parser.parse_args(argv)
    if options.lines is not None:
        _write(options.lines)
    else:
        print(build(default_folder()))


if __name__ == "__main__":
    exit_with(main)
