"""A tree that is quick to copy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quantctl.tree.tree import Tree

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))


@pytest.fixture
def tree(megatron_tree, tmp_path) -> Tree:
    """The files of a stock 0.16.1 that quantctl looks at."""
    from small import small_tree

    return Tree(small_tree(megatron_tree("0.16.1"), tmp_path / "tree").resolve(), "--megatron")
