"""Which code is a Megatron release's own: what may be left out by a fast path, and which functions compute products.

patches/stock.json holds digests of the known releases' code, written by `make releases ARGS=--update-golden`. Code that
is in no release may compute anything, so nobody leaves it out: unknown is unknown.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import quantctl.patches
from quantctl.patches.patch import ATTENTION, LAYERS, Patch
from quantctl.patches.registry import PATCHES
from quantctl.stock.products import key_of, products_in
from quantctl.stock.structure import digest
from quantctl.stock.unpatch import functions_of, scopes_of, unpatched

Reader = Callable[[str], "bytes | None"]
"""From a file of the tree to its bytes; None if it has none."""

PRODUCT_FILES = tuple(dict.fromkeys((LAYERS, ATTENTION, "megatron/core/transformer/moe/experts.py")))
"""Files of Megatron's in which selectors stand, a fork's included."""


@dataclass(frozen=True)
class Place:
    """A piece of code of a tree."""

    file: str
    scope: str
    line: int
    """Where the function begins, or its first product."""
    own: bool = False
    """Whether a known release has it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.scope}"


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = json.loads(Path(quantctl.patches.__path__[0], "stock.json").read_bytes())
    return table


def _is_known(kind: str, file: str, scope: str, found: str) -> bool:
    return any(row.get(f"{kind} {file} {scope}") == found for row in _table().values())


def _closure(module: ast.Module, scope: str) -> list[ast.AST]:
    """A function or class, and what of the same file it names, directly or through what it names."""
    top = {node.name: node for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    methods = dict(functions_of(module))
    found: dict[str, ast.AST] = {}
    wanted = [scope]
    while wanted:
        name = wanted.pop()
        node = methods.get(name) or top.get(name)
        if node is None or name in found:
            continue
        found[name] = node
        owner = name.rpartition(".")[0]
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in top:
                wanted.append(part.id)
            elif owner and isinstance(part, ast.Attribute) and key_of(part.value) == "self":
                wanted.append(f"{owner}.{part.attr}")
    return [found[name] for name in (scope, *sorted(found.keys() - {scope}))] if scope in found else []


def _closure_digest(module: ast.Module, scope: str) -> str | None:
    names = [name for name, _ in functions_of(module)]
    nodes = _closure(module, scope)
    return digest(*nodes) if nodes and names.count(scope) <= 1 else None


def _left_out(patch: Patch, read: Reader) -> Iterator[tuple[str, str, ast.Module | None]]:
    parsed: dict[str, ast.Module | None] = {}
    for file, scope in patch.leaves_out:
        if file not in parsed:
            raw = read(file)
            try:
                parsed[file] = None if raw is None else unpatched(raw, file)
            except (SyntaxError, ValueError, RecursionError):
                parsed[file] = None
        yield file, scope, parsed[file]


def strange(patch: Patch, read: Reader) -> Place | None:
    """The first piece of code that the patch leaves out where it returns early, and that no known release has."""
    for file, scope, module in _left_out(patch, read):
        found = None if module is None else _closure_digest(module, scope)
        if found is None or not _is_known("early", file, scope, found):
            nodes = [] if module is None else _closure(module, scope)
            return Place(file, scope, getattr(nodes[0], "lineno", 1) if nodes else 1)
    return None


def undecided(module: ast.Module, file: str, decided: frozenset[tuple[int, int]], *, patched: bool) -> list[Place]:
    """Functions with matrix products of which no selector decides any.

    `decided`: where the products stand that a fork's selectors decide. `patched`: the patches' own functions are
    decided by quantctl's selectors.
    """
    ours = {scope for patch in PATCHES if patch.file == file and patched for scope in scopes_of(patch)}
    found = []
    for scope, function in functions_of(module):
        products = products_in(function)
        if not products or scope in ours or any((node.lineno, node.col_offset) in decided for node in products):
            continue
        own = _is_known("products", file, scope, digest(function))
        found.append(Place(file, scope, products[0].lineno, own))
    return found


def row(read: Reader) -> dict[str, str]:
    """What `patches/stock.json` says about a release whose stock files are `read`."""
    entries: dict[str, str] = {}
    for patch in PATCHES:
        for file, scope, module in _left_out(patch, read):
            if module is not None and (found := _closure_digest(module, scope)):
                entries[f"early {file} {scope}"] = found
    for file in PRODUCT_FILES:
        if raw := read(file):
            for scope, function in functions_of(ast.parse(raw)):
                if products_in(function):
                    entries[f"products {file} {scope}"] = digest(function)
    return dict(sorted(entries.items()))
