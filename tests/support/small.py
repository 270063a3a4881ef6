"""A tree that is quick to copy."""

from __future__ import annotations

import shutil
from pathlib import Path

from quantctl.tree.state import FILES


def small_tree(stock: Path, root: Path) -> Path:
    """Copy those files of the stock tree to `root` that quantctl looks at."""
    for file in ("megatron/core/__init__.py", "megatron/core/package_info.py", *FILES):
        if (stock / file).exists():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(stock / file, root / file)
    return root
