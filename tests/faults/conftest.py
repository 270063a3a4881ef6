"""A tree that is quick to copy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import small_tree

from quantctl.tree.tree import Tree

MEMORY = Path("/dev/shm")
NEEDED = 200 * 2**20


@pytest.fixture(autouse=True)
def _scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What killed operations leave among the system's temporary files goes with the test."""
    with tempfile.TemporaryDirectory(prefix="quantctl-faults-") as name:
        os.chmod(name, 0o755)  # for git as another user
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory where there is some: an operation mostly waits for its fsyncs."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < NEEDED:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="quantctl-", ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("XDG_STATE_HOME", f"{name}/state")
        yield Path(name).resolve()


@pytest.fixture
def tree(megatron_tree, folder) -> Tree:
    """The files of a stock 0.16.1 that quantctl looks at."""
    return Tree(small_tree(megatron_tree("0.16.1"), folder / "tree"), "--megatron")
