"""What the Python that a command names can import, where that is the one which quantctl runs in."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path


def importable(module: str) -> bool:
    """Whether a top-level module is there, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def is_this_python(interpreter: str | None) -> bool:
    """Whether a python or torchrun is that of the environment quantctl runs in; one that is not found may be."""
    found = None if interpreter is None else shutil.which(interpreter)
    return found is None or Path(found).absolute().parent == Path(sys.executable).absolute().parent
