"""The rooms of the code and the arrows between them: what may import what, in one table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "quantctl": "quantctl",
    "kernels": "quantctl.kernels",
    "patches": "quantctl.patches",
    "script": "quantctl.script",
}
LARGEST_ROOM = 24
"""Entries that a folder may have before it is time for another room."""

GROUND = "the ground"
ON_THE_GROUND = {"spec", "modes", "errors", "output", "disk", "outside"}
FRONT = "the front"
"""The command line, and the front ends that stand beside the scripts."""
AT_THE_FRONT = {"cli", "__main__", "script.train_config", "script.flash_attention_config", "script.quant_type_modifier"}

FACES = {
    f"kernels.{name}"
    for name in ("linear", "attention", "attention_dispatch", "grouped_experts", "modules", "transformer_engine")
}
"""The names under which patched trees import the products."""

KERNELS = {"kernels", "kernels.formats", "kernels.measure", "kernels.products"}
ARROWS: dict[str, set[str]] = {
    # room: what it may import beside itself and the ground, from the bottom to the top
    GROUND: set(),
    "patches": set(),
    "script": set(),
    "stock": {"patches"},
    "kernels": set(),
    "kernels.formats": {"kernels"},
    "kernels.measure": {"kernels", "kernels.formats"},
    "kernels.products": {"kernels", "kernels.formats", "kernels.measure", "patches", "stock"},
    "kernels.triton": {"kernels", "kernels.formats", "kernels.products"},
    "kernels.cpu": {"kernels", "kernels.formats", "kernels.products"},
    "kernels.te": {"kernels.measure", "kernels.products"},
    "kernels faces": {"kernels.products", "kernels.te"},
    "tree": {"patches", "stock"},
    "history": {"tree"},
    "runs": {"history", "tree"},
    "data": set(),
    "pretrain": {"data", "kernels.measure"},
    "smoke": {"pretrain", "data", "script", "kernels.measure"},
    "lint": {"tree", "pretrain", "script"},
    "launch": {"script", "lint", "runs", "tree"},
    "report": {"runs", "tree"},
    "api": {"report", "kernels.formats", "kernels.measure", "kernels.products"},
    "bench": {"runs", "tree", "script", *KERNELS},
    "sweep": {"launch", "runs", "tree", "report"},
}
ARROWS["commands"] = {*ARROWS}
ARROWS[FRONT] = {"commands", "launch"}

_TWINS = {"kernels.triton", "kernels.cpu"}
WHEN_CALLED = {"kernels": {"kernels.formats"}, "kernels.formats": _TWINS, "kernels.products": {*_TWINS, "kernels.te"}}
"""Imports inside functions that may run the other way: the twins are loaded by the reference on first use, the entry by
the package, Transformer Engine's side where its layers are."""


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _room(module: str) -> str:
    name = module.removeprefix("quantctl").removeprefix(".")
    if name in AT_THE_FRONT:
        return FRONT
    if name in FACES:
        return "kernels faces"
    first, _, rest = name.partition(".")
    if first in ON_THE_GROUND or not first:
        return GROUND
    inner = f"{first}.{rest.partition('.')[0]}"
    return inner if inner in ARROWS else first


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in MODULES else node.module


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules of ours that a file imports, and whether inside a function."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside |= {id(child) for child in ast.walk(node)}
        for name in _named(node):
            if name in MODULES:
                yield name, id(node) in inside


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows(module):
    room = _room(module)
    assert room in ARROWS, f"{module} stands in no room: give it one, or a line in ARROWS"
    for target, when_called in _imports(MODULES[module]):
        other = _room(target)
        allowed = {room, GROUND, *ARROWS[room], *(WHEN_CALLED.get(room, ()) if when_called else ())}
        assert other in allowed, f"{module} imports {target}: no arrow runs from {room} to {other}"


def test_rooms_have_no_circle():
    """Every room stands behind those that it may import."""
    seen: set[str] = set()
    for room, allowed in ARROWS.items():
        assert allowed <= seen, room
        seen.add(room)


def test_modules_have_no_circle():
    """Nor do modules import each other in a loop when they are loaded, or for their types."""
    imports = {name: {target for target, inside in _imports(path) if not inside} for name, path in MODULES.items()}
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("folder", ["quantctl", "kernels"])
def test_a_room_can_be_overseen(folder):
    entries = [path for path in (ROOT / folder).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= LARGEST_ROOM


@pytest.mark.parametrize("room", sorted(ARROWS.keys() - {GROUND, FRONT, "kernels faces"}))
def test_a_room_says_what_lives_there(room):
    text = ast.get_docstring(ast.parse(MODULES[f"quantctl.{room}"].read_bytes())) or ""
    assert len(text.splitlines()) >= 2, f"{room}/__init__.py says in about three lines what lives there"
