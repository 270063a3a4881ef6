"""What a run was made of: the tree's commit and code, package versions."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantctl.disk.paths import digest
from quantctl.errors import QuantctlError
from quantctl.history.backup import checkout_of
from quantctl.history.changes import changed_files
from quantctl.history.git import Git, GitError
from quantctl.tree.elsewhere import selectors_in
from quantctl.tree.forks import PREFIX
from quantctl.tree.selectors import OURS, SELECTORS, rewrite, rewrite_places
from quantctl.tree.source import source_of
from quantctl.tree.state import FILES
from quantctl.tree.tree import Tree

_PACKAGES = (
    "quantctl",
    "torch",
    "megatron-core",
    "triton",
    "transformer-engine",
    "apex",
    "numpy",
    "torch-npu",
    "mindspeed",
)


def git_state(tree: Tree) -> dict[str, Any] | None:
    """Commit, branch and number of changed tracked files of the checkout (None where unknown); None outside git."""
    top = checkout_of(tree)
    if top is None:
        return None
    repository = Git(top)
    try:
        commit = repository.text("rev-parse", "--verify", "--quiet", "HEAD")
    except GitError:
        commit = None
    changed = changed_files(top)
    return {
        "toplevel": str(top),
        "commit": commit,
        "branch": _branch(repository),
        "changed_files": None if changed is None else len(changed),
    }


def _branch(repository: Git) -> str | None:
    """None when the head is detached."""
    try:
        return repository.text("symbolic-ref", "--quiet", "--short", "HEAD")
    except GitError:
        return None


def package_versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed packages that decide a run's numbers, or those of `names`, found without importing them."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def file_hashes(root: Path) -> dict[str, str]:
    """sha256 of each file that quantctl edits and the tree has."""
    present = [file for file in FILES if (root / file).is_file()]
    return {file: hashlib.sha256((root / file).read_bytes()).hexdigest() for file in present}


def code_digest(root: Path) -> str:
    """Digest of the tree's Python code but for what its selectors say: runs that share it differ in formats only."""
    defaults = {role: selector.default for role, selector in SELECTORS.items()}
    of_selectors = {selector.file for selector in SELECTORS.values()}
    parts: list[str | bytes] = []
    for path in sorted((root / "megatron").rglob("*.py")):
        name, raw = str(path.relative_to(root)), path.read_bytes()
        if name in of_selectors:
            # a fork's file that quantctl cannot set says the same in every run
            with contextlib.suppress(QuantctlError):
                raw = rewrite(source_of(raw, name), defaults)
        elif PREFIX.encode() in raw:
            with contextlib.suppress(QuantctlError):
                raw = rewrite_places(source_of(raw, name), selectors_in(source_of(raw, name), OURS), defaults)
        parts += [name, raw]
    return digest(*parts)
