"""A Megatron tree's own functions and classes as plain data, from the syntax trees of its sources.

A name is looked up as Python would: in its module, then through the module's imports, to the file of the tree that
defines it. Each file is parsed once and each definition taken apart once, when something asks for it. Nothing is
imported or executed.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quantctl.lint.start.shared import at_first, declared
from quantctl.lint.start.syntax import Code, call, expression, statements

TRAINER = "megatron.training.arguments"
_LARGEST = 2**21
"""Bytes of a file that is read."""
_MOST_FILES = 200
_MOST_HOPS = 8
"""Imports that lead from a name to its definition."""


@dataclass(frozen=True)
class Function:
    """A function or a method."""

    module: str
    name: str
    names: tuple[str, ...]
    """Its parameters."""
    defaults: dict[str, Code] = field(hash=False)
    body: list[Code] = field(hash=False)
    decorators: tuple[str, ...] = ()
    of: str = ""
    """The class that a method is of."""
    shared: frozenset[str] = frozenset()
    """The module's variables that it changes."""

    @property
    def place(self) -> str:
        """As people are told of it."""
        return f"{self.of}.{self.name}" if self.of else self.name


@dataclass(frozen=True)
class Class:
    """A class: a configuration, an enumeration, a bundle of constants or functions."""

    module: str
    name: str
    bases: tuple[str, ...]
    decorators: tuple[str, ...]
    fields: dict[str, Code] = field(hash=False)
    """Annotated attributes with their defaults, in order; `["?"]` for none."""
    constants: dict[str, Code] = field(hash=False)
    """Other attributes of the class: an enumeration's members."""
    methods: dict[str, Function] = field(hash=False)


@dataclass(frozen=True)
class Constant:
    """A module's own variable."""

    module: str
    code: Code = field(hash=False)


@dataclass(frozen=True)
class Outside:
    """What is imported from outside of the tree: known by its name only."""

    name: str


Definition = Function | Class | Constant | Outside


class Tree:
    """The sources of the tree at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers: dict[Hashable, tuple[str, str, int | None] | None] = {}
        """What was said of commands so far."""
        self._modules: dict[str, ast.Module | None] = {}
        self._scopes: dict[str, dict[str, ast.AST]] = {}
        self._found: dict[tuple[str, str], Definition | None] = {}

    def parsed(self, module: str) -> ast.Module | None:
        """The syntax tree of a module of the tree; None where there is none that can be read."""
        if module not in self._modules:
            path = self.root.joinpath(*module.split("."))
            files = (path.with_suffix(".py"), path / "__init__.py")
            found = None if len(self._modules) >= _MOST_FILES else next(filter(None, map(_parsed, files)), None)
            self._modules[module] = found
        return self._modules[module]

    def find(self, module: str, name: str) -> Definition | None:
        """What a name means in a module; None if the module does not know it."""
        if (module, name) not in self._found:
            self._found[module, name] = self._find(module, name, _MOST_HOPS)
        return self._found[module, name]

    def function(self, name: str, *modules: str) -> Function | None:
        """The function of that name in the first of the modules that has it."""
        found = (self.find(module, name) for module in modules)
        return next((one for one in found if isinstance(one, Function)), None)

    def _find(self, module: str, name: str, hops: int) -> Definition | None:
        node = self._scope(module).get(name)
        if isinstance(node, ast.FunctionDef):
            return _function(module, node)
        if isinstance(node, ast.ClassDef):
            return _class(module, node)
        if isinstance(node, ast.ImportFrom) and hops:
            origin = _origin(module, node, self.root)
            own = next(one.name for one in node.names if (one.asname or one.name) == name)
            inside = self._find(origin, own, hops - 1) if origin.startswith("megatron") else None
            return inside or Outside(own)
        return Constant(module, expression(node)) if isinstance(node, ast.expr) else None

    def _scope(self, module: str) -> dict[str, ast.AST]:
        """A module's names, with the node that defines each; of what is given several values nobody knows which."""
        if module not in self._scopes:
            parsed = self.parsed(module)
            every = list(ast.walk(parsed)) if parsed is not None else []
            stored = Counter(_stored(parsed.body) if parsed is not None else ())
            stored.update(name for node in every if isinstance(node, ast.Global) for name in node.names * 2)
            imports = ((one, node) for node in every if isinstance(node, ast.ImportFrom) for one in node.names)
            found: dict[str, ast.AST] = {one.asname or one.name: node for one, node in imports}
            found = {name: node for name, node in found.items() if not stored[name]}
            for name, node in _names(parsed.body if parsed is not None else []):
                if stored[name] < 2:
                    found[name] = node
            self._scopes[module] = found
        return self._scopes[module]

    def at_first(self, function: Function) -> dict[str, Code]:
        """The variables that `function` shares with its module, with what they hold before anybody called it."""
        return at_first(self.parsed(function.module), function.name) if function.shared else {}

    def types(self) -> dict[str, Code]:
        """The functions by which the trainer's parser reads values, where they are of its own: flag -> function."""
        return {
            word.value: expression(given["type"])
            for node in self._calls(TRAINER, "add_argument")
            if "type" in (given := {one.arg: one.value for one in node.keywords})
            for word in node.args
            if isinstance(word, ast.Constant) and isinstance(word.value, str)
        }

    def parallel(self) -> Code | None:
        """The trainer's call of initialize_model_parallel."""
        return next(
            (call(node) for node in self._calls("megatron.training.initialize", "initialize_model_parallel")), None
        )

    def _calls(self, module: str, name: str) -> Iterator[ast.Call]:
        parsed = self.parsed(module)
        for node in ast.walk(parsed) if parsed is not None else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == name:
                yield node


def _parsed(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _stored(body: list[ast.stmt]) -> Iterator[str]:
    """The names that statements of a module assign, once for each time, also under a condition or a `try`."""
    stack: list[ast.AST] = list(body)
    while stack:
        here = stack.pop()
        if isinstance(here, ast.Name) and isinstance(here.ctx, ast.Store):
            yield here.id
        if not isinstance(here, (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.GeneratorExp)):
            stack += ast.iter_child_nodes(here)


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """What statements of a module define, those under a condition or a `try` left out."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((one.id, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _origin(module: str, node: ast.ImportFrom, root: Path) -> str:
    """The module that is imported from, its dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    package = parts if root.joinpath(*parts, "__init__.py").is_file() else parts[:-1]
    kept = package[: len(package) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept)


def _function(module: str, node: ast.FunctionDef, of: str = "") -> Function:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = {
        **dict(zip([one.arg for one in reversed(positional)], reversed(node.args.defaults))),  # noqa: B905
        **{one.arg: value for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value},
    }
    named = {name: expression(value) for name, value in defaults.items()}
    names = tuple(one.arg for one in every)
    return Function(
        module, node.name, names, named, statements(node.body), _decorators(node), of, frozenset(declared(node))
    )


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...]:
    called = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    return tuple(getattr(one, "id", getattr(one, "attr", "")) for one in called)


def _class(module: str, node: ast.ClassDef) -> Class:
    fields: dict[str, Code] = {}
    constants: dict[str, Code] = {}
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            fields[one.target.id] = _default(one.value)
        elif isinstance(one, ast.Assign):
            constants |= {target.id: expression(one.value) for target in one.targets if isinstance(target, ast.Name)}
    methods = {one.name: _function(module, one, node.name) for one in node.body if isinstance(one, ast.FunctionDef)}
    bases = tuple(getattr(base, "id", getattr(base, "attr", "?")) for base in node.bases)
    return Class(module, node.name, bases, _decorators(node), fields, constants, methods)


def _default(node: ast.expr | None) -> Code:
    """A field's default: what it is, or what field(default=...) says."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "field":
        given = {word.arg: word.value for word in node.keywords}
        if "default" in given:
            return expression(given["default"])
        factory = given.get("default_factory")
        return ["list"] if isinstance(factory, ast.Name) and factory.id == "list" else ["?"]
    return expression(node) if node is not None else ["?"]
