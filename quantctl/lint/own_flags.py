"""Options of the tree in use, where its own code declares them: a fork adds flags and changes defaults and choices.

Read from the syntax trees of its `add_argument` calls, nothing is run. What is written there as a literal counts before
the table of the release, which holds what is computed, too. A default that two places give differently is not known;
nor is that of --transformer-impl, which decides who computes, where it is no literal.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from quantctl.lint.megatron_flags import Option, table

_ARGUMENTS = Path("megatron/training/arguments.py")
_NOT_THE_TRAINER = {"tests", "test", "tools", "examples", "tasks", "docs", "scripts", "docker", "unit_tests"}
_LARGEST = 2**20
"""Bytes of a file that is read."""
_MOST_FOLDERS = 2000
_UNKNOWN = object()
_DECIDES = "--transformer-impl"


def _files(root: Path) -> Iterator[Path]:
    """Where flags of a trainer are declared: Megatron's training package, and what lies beside `megatron`."""
    yield root / _ARGUMENTS
    for folder, folders, names in islice(os.walk(root), _MOST_FOLDERS):
        beside = Path(folder) != root
        folders[:] = [name for name in folders if name not in _NOT_THE_TRAINER and not name.startswith(".")]
        if not beside:
            folders[:] = [name for name in folders if name != "megatron"]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return _UNKNOWN


def _calls(path: Path) -> Iterator[ast.Call]:
    try:
        if path.stat().st_size > _LARGEST:
            return
        raw = path.read_bytes()
        tree = ast.parse(raw) if b"add_argument(" in raw else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield node


def _option(name: str, call: ast.Call, known: Option | None) -> Option:
    """The option as declared; what is not written as a literal stays as the release's table has it."""
    given = {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg}
    option = known or Option(name)
    action = given.get("action")
    if isinstance(action, str) and action.startswith(("store_true", "store_false", "store_const")):
        return known or replace(option, nargs=0, default="True" if action == "store_false" else "False")
    if isinstance(nargs := given.get("nargs"), (int, str)):
        option = replace(option, nargs=nargs)
    if "default" in given and given["default"] is not _UNKNOWN:
        option = replace(option, default=str(given["default"]))
    elif "default" in given and name == _DECIDES:
        option = replace(option, default="None")
    if isinstance(choices := given.get("choices"), (list, tuple)):
        option = replace(option, choices=tuple(map(str, choices)))
    if known is None and any(keyword.arg == "type" for keyword in call.keywords):
        types = [keyword.value for keyword in call.keywords if keyword.arg == "type"]
        option = replace(option, type=types[0].id if isinstance(types[0], ast.Name) else None)
    return option


def declares_any(root: Path) -> bool:
    """Whether code at `root` that can be a trainer's declares a flag; a Megatron of its own in it counts."""
    return any(True for one in (root, root / "megatron") for path in _files(one) for _ in _calls(path))


@lru_cache(maxsize=4)
def options(release: str, root: Path) -> Mapping[str, Option]:
    """The release's options with those of the tree at `root` before them."""
    stock = table(release)
    if not (root / _ARGUMENTS).is_file():
        return stock
    own: dict[str, Option] = {}
    for path in dict.fromkeys(_files(root)):
        for call in _calls(path):
            for word in call.args:
                name = _literal(word)
                if not isinstance(name, str) or not name.startswith("--"):
                    continue
                option = _option(name, call, stock.get(name))
                before = own.setdefault(name, option)
                if before.default != option.default:
                    own[name] = replace(option, default="None", choices=None)
    return {**stock, **own}
