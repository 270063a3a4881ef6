"""Megatron trees: a directory that holds megatron/core, wherever it came from."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from quantctl.disk.attributes import refuse_foreign_link
from quantctl.errors import QuantctlError

CORE = Path("megatron/core")
INSTALLED = "installed megatron-core"
"""How a tree was found that nobody named."""


@dataclass(frozen=True)
class Tree:
    """A tree and how it was found."""

    root: Path
    """The directory that holds megatron/core, resolved."""
    found_by: str
    """`--megatron`, `MEGATRON_LM_PATH`, `current directory` or `installed megatron-core`."""

    @property
    def core(self) -> Path:
        return self.root / CORE

    def version(self) -> str:
        """The release in megatron/core/package_info.py, read without importing it; `unknown` if absent."""
        try:
            module = ast.parse((self.core / "package_info.py").read_bytes())
        except (OSError, SyntaxError):
            return "unknown"
        constants = {
            node.targets[0].id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        parts = [constants.get(name) for name in ("MAJOR", "MINOR", "PATCH")]
        if None in parts:
            return "unknown"
        return ".".join(map(str, parts)) + str(constants.get("PRE_RELEASE") or "")

    def refuse_links_out(self, file: str) -> None:
        """Raise QuantctlError if writing to `file` would write to another place than the tree.

        Installers link a package's files into their cache, which other environments share.
        """
        path = self.root / file
        for step in (path, *path.parents):
            if step == self.root:
                break
            refuse_foreign_link(step)
        real = path.resolve()
        if not any(real.is_relative_to(place) for place in (self.root, self.core.resolve())):
            raise QuantctlError(
                f"{path} is a link to {real}, which is not in the tree",
                "put the file itself in its place (cp --remove-destination), or name the tree that it belongs to",
            )


def is_tree(path: Path) -> bool:
    return (path / CORE / "__init__.py").is_file()


def _resolved(how: str, path: Path | str) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # no such user, or a link that leads to itself
        raise QuantctlError(f"{how} names {path}: {error}", "give the path of a folder") from error


def _installed_root() -> Path | None:
    """The sys.path entry of the installed megatron-core, found without running any of its code."""
    try:
        # asked for megatron.core itself, find_spec would import megatron, which somebody's folder can be
        package = importlib.util.find_spec("megatron")
        places = None if package is None else package.submodule_search_locations
        if places is None:
            return None
        specs = (finder.find_spec("megatron.core", places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next(filter(None, specs), None)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).parents[2]


def surrounding_tree(cwd: Path) -> Tree | None:
    """The nearest parent of `cwd` that is a tree, or itself."""
    start = cwd.resolve()
    found = (parent for parent in (start, *start.parents) if is_tree(parent))
    return next((Tree(root, "current directory") for root in found), None)


def find_tree(megatron: Path | None, cwd: Path | None = None) -> Tree:
    """The tree in use: `--megatron`, else MEGATRON_LM_PATH, else the nearest parent of `cwd`, else the installed one.

    Raises QuantctlError when a named path is no tree or when there is none at all.
    """
    named = [("--megatron", megatron), ("MEGATRON_LM_PATH", os.environ.get("MEGATRON_LM_PATH") or None)]
    for how, path in named:
        if path is None:
            continue
        root = _resolved(how, path)
        if not is_tree(root):
            around = surrounding_tree(root)
            raise QuantctlError(
                f"{how} names {root}, which holds no megatron/core",
                "give a Megatron-LM checkout, an unpacked megatron-core wheel or a site-packages directory"
                if around is None
                else f"it lies in one that does: {around.root}",
            )
        return Tree(root, how)
    start = cwd or Path.cwd()
    if around := surrounding_tree(start):
        return around
    installed = _installed_root()
    if installed is None:
        raise QuantctlError(
            "no Megatron tree found: no --megatron, no MEGATRON_LM_PATH, none in the parents of "
            f"{start.resolve()}, no installed megatron-core",
            "pass --megatron PATH, or: pip install megatron-core",
        )
    return Tree(installed.resolve(), INSTALLED)
