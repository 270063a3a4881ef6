"""A larger corpus than the smoke one: the documentation in the sources of installed packages, as JSON lines.

    python -m quantctl.data.docstrings docstrings.jsonl

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
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError, exit_with

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


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.data.docstrings", description="Write the larger corpus.")
    parser.add_argument("output", type=Path, help="JSON lines with the fields text and source")
    options = parser.parse_args(argv)
    write_new(options.output, "".join(json.dumps(one) + "\n" for one in documents()).encode())


if __name__ == "__main__":
    exit_with(main)
