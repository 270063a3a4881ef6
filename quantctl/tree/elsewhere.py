"""What a fork decides outside Megatron's own files: selectors in other modules, methods that it replaces at run time.

Every Python file of the tree is looked at by its bytes; the few that mention what is looked for are parsed.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.stock.products import key_of
from quantctl.tree.forks import PREFIX, Products, Survey, Unclear, survey
from quantctl.tree.source import Source

_SKIPPED = frozenset(("__pycache__", "tests", "test", "docs", "node_modules", "site-packages", "build", "dist"))
"""Folders that no training imports from."""
_CHANGED = (
    b"DotProductAttention",
    b"LinearWith",
    b"ParallelLinear",
    b"SequentialMLP",
    b"linear_with_",
    b"LanguageModule",
)
"""What the names of the classes and functions that patches change have in common."""
_PROGRAM = re.compile(r"(pretrain|train|finetune|posttrain)\w*\.py")
"""A folder that holds one of these is a checkout, whose other packages belong to the tree, too."""


@dataclass(frozen=True)
class Replacement:
    """A function or class of Megatron's for which a program puts another one while it runs."""

    file: str
    line: int
    target: str
    """`Class.method`, `Class` or `function`."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} replaces {self.target} at run time"


def python_files(root: Path) -> Iterator[Path]:
    """The Python files of a tree, in a stable order: Megatron's, and in a checkout those of its other packages."""
    folders = [root / "megatron"]
    names = sorted(os.listdir(root))
    if (root / ".git").exists() or any(_PROGRAM.fullmatch(name) for name in names):
        folders = [root / name for name in names if _may_hold_code(root / name)]
        yield from (root / name for name in names if name.endswith(".py") and (root / name).is_file())
    for folder in folders:
        for path, inner, files in os.walk(folder):
            inner[:] = sorted(name for name in inner if _may_hold_code(Path(path, name)))
            yield from (Path(path, name) for name in sorted(files) if name.endswith(".py"))


def _may_hold_code(path: Path) -> bool:
    """A folder, but no hidden one, no virtual environment and none that no training imports from."""
    hidden = path.name.startswith(".") or path.name in _SKIPPED
    return not hidden and path.is_dir() and not (path / "pyvenv.cfg").exists()


def read_all(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every Python file that can be read, by its path in the tree."""
    for path in python_files(root):
        try:
            yield path.relative_to(root).as_posix(), path.read_bytes()
        except OSError:
            continue  # nobody can import it either


@lru_cache(maxsize=32)
def selectors_in(source: Source, ours: frozenset[str]) -> Survey:
    """The fork's selectors in a file that is none of those that quantctl patches with selectors of its own."""
    try:
        found = survey(source, _roles_in(source.raw), ours, joint=True)
    except QuantctlError as refusal:
        return Survey((), (Unclear(source.name, 1, PREFIX, None, refusal.message),))
    # who imports quantctl's own, or reads them as attributes, decides nothing
    unclear = (place for place in found.unclear if place.variable.rpartition(".")[2] not in ours)
    return Survey(found.selectors, tuple(unclear), found.decided)


def _roles_in(raw: bytes) -> Products:
    """What products mean in such a file: attention's if there is a softmax, else those of linear layers."""
    roles: dict[str, tuple[str, ...]] = {"linear": ("linear",), "attention": ("qk", "pv"), "baddbmm": ("qk",)}
    if b"softmax" in raw or b"baddbmm" in raw:
        return roles | {"bmm": ("pv",)}
    return roles | {"bmm": ("linear",), "matmul": ("linear",)}


def suspicious(raw: bytes) -> bool:
    """Whether a file mentions something that patches change: only then `replacements` need look at it."""
    return any(name in raw for name in _CHANGED)


def replacements(files: Mapping[str, bytes], targets: Mapping[str, str]) -> list[Replacement]:
    """Where `files` replace one of `targets` (name in its module -> the module's dotted name) at run time.

    `Class.method = f`, `setattr(Class, "method", f)`, and registries that take the dotted name as a string, as
    MindSpeed's: `register_patch("megatron.core.module.Class.method", f)`.
    """
    wanted = set(targets) | {name.partition(".")[0] for name in targets if "." in name}
    names = b"|".join(re.escape(name.partition(".")[0]).encode() for name in sorted(wanted))
    needle = re.compile(rb"\b(?:" + names + rb")(?:\.\w+)?(?:['\"]|\s*=(?!=))|\bsetattr\(")
    dotted = {f"{module}.{name}": name for name, module in targets.items()}
    dotted |= {f"{module}.{name.partition('.')[0]}": name.partition(".")[0] for name, module in targets.items()}
    found = []
    for file, raw in files.items():
        if not needle.search(raw):
            continue
        try:
            module = ast.parse(raw)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(module):
            found += [Replacement(file, getattr(node, "lineno", 1), name) for name in _replaced(node, wanted, dotted)]
    return sorted(found, key=lambda place: (place.file, place.line))


def _replaced(node: ast.AST, wanted: set[str], dotted: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Attribute) and (name := _known(key_of(target), wanted)):
                yield name
    elif isinstance(node, ast.Call):
        texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if key_of(node.func) == "setattr" and texts and node.args:
            if name := _known(f"{key_of(node.args[0])}.{texts[0]}", wanted):
                yield name
        elif len(node.args) + len(node.keywords) > 1:
            yield from (dotted[text] for text in texts if text in dotted)


def _known(key: str | None, wanted: set[str]) -> str | None:
    """`layers.Class.method` as `Class.method`, if that is wanted."""
    parts = (key or "").split(".")
    return next((name for n in (2, 1) if (name := ".".join(parts[-n:])) in wanted and len(parts) >= n), None)
