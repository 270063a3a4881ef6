"""A tree that is quick to copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from quantctl.tree.state import FILES
from quantctl.tree.tree import Tree

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))


@pytest.fixture
def tree(megatron_tree, tmp_path) -> Tree:
    """The files of a stock 0.16.1 that quantctl looks at."""
    stock, root = megatron_tree("0.16.1"), tmp_path / "tree"
    for file in ("megatron/core/__init__.py", "megatron/core/package_info.py", *FILES):
        if (stock / file).exists():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(stock / file, root / file)
    return Tree(root.resolve(), "--megatron")
