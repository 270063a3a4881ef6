"""The checks of a Megatron tree as plain data, from the syntax trees of its sources.

Expressions and statements become lists with their kind in front; what no check needs (printing, imports) is left out,
and what cannot be followed is `["?"]`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quantctl.lint.start.syntax import UNKNOWN, Code, call, expression, statements

_FILES = (
    "megatron/training/arguments.py",
    "megatron/training/argument_utils.py",
    "megatron/training/utils.py",
    "megatron/training/utils/common_utils.py",
    "megatron/core/parallel_state.py",
    "megatron/core/model_parallel_config.py",
    "megatron/core/transformer/transformer_config.py",
    "megatron/core/utils.py",
)
_CONFIGS = ("megatron/core/model_parallel_config.py", "megatron/core/transformer/transformer_config.py")
_INITIALIZE = "megatron/training/initialize.py"
_CLASSES = ("ModelParallelConfig", "TransformerConfig", "MLATransformerConfig")
ROOTS = ("validate_args", "core_transformer_config_from_args", "initialize_model_parallel")
_LARGEST = 2**21
"""Bytes of a file that is read."""


def _function(node: ast.FunctionDef) -> dict[str, Any]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = {
        **dict(zip([one.arg for one in reversed(positional)], reversed(node.args.defaults))),  # noqa: B905
        **{one.arg: value for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value},
    }
    named = {name: expression(value) for name, value in defaults.items()}
    return {"names": [one.arg for one in every], "defaults": named, "body": statements(node.body)}


def _parsed(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _called(code: Any) -> Iterator[str]:
    """The names of functions that a piece of code calls."""
    stack = [code]
    while stack:
        here = stack.pop()
        if isinstance(here, list):
            if len(here) == 4 and here[0] == "call" and here[1][:1] == ["n"]:
                yield here[1][1]
            stack += here
        elif isinstance(here, dict):
            stack += here.values()


def read(root: Path) -> dict[str, Any]:
    """The checks of the tree at `root`: functions, configuration classes, and how the parallel state is asked for."""
    modules = {name: module for name in _FILES if (module := _parsed(root / name)) is not None}
    found: dict[str, ast.FunctionDef] = {}
    for module in modules.values():
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, node)
    functions: dict[str, Any] = {}
    wanted = [name for name in ROOTS if name in found]
    while wanted:
        name = wanted.pop()
        if name not in functions and name in found:
            functions[name] = _function(found[name])
            wanted += _called(functions[name])
    classes = {
        node.name: _class(node)
        for name in _CONFIGS
        if name in modules
        for node in modules[name].body
        if isinstance(node, ast.ClassDef) and node.name in _CLASSES
    }
    return {
        "functions": functions,
        "classes": classes,
        "imported": _imported(modules.values()),
        "parallel": _parallel(_parsed(root / _INITIALIZE)),
    }


def _imported(modules: Iterable[ast.Module]) -> list[str]:
    """Functions that are imported by name: as values they are known by it (quick_gelu)."""
    found: set[str] = set()
    for module in modules:
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom):
                found |= {name.asname or name.name for name in node.names if name.name.islower()}
    return sorted(found)


def _class(node: ast.ClassDef) -> dict[str, Any]:
    fields = {
        one.target.id: _default(one.value)
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    methods = {one.name: _function(one) for one in node.body if isinstance(one, ast.FunctionDef)}
    return {
        "bases": [base.id for base in node.bases if isinstance(base, ast.Name)],
        "fields": fields,
        "methods": methods,
    }


def _default(node: ast.expr | None) -> Code:
    """A field's default: what it is, or what field(default=...) says."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "field":
        given = {word.arg: word.value for word in node.keywords}
        if "default" in given:
            return expression(given["default"])
        factory = given.get("default_factory")
        return ["list"] if isinstance(factory, ast.Name) and factory.id == "list" else UNKNOWN
    return UNKNOWN if node is None else expression(node)


def _parallel(module: ast.Module | None) -> Code | None:
    """The call of initialize_model_parallel in the trainer."""
    for node in ast.walk(module) if module is not None else ():
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "initialize_model_parallel":
            return call(node)
    return None
