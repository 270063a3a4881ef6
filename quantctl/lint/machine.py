"""Whether a command runs with the Python that quantctl runs in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def is_this_python(interpreter: str | None) -> bool:
    """Whether a python or torchrun is that of the environment quantctl runs in; one that is not found may be."""
    found = None if interpreter is None else shutil.which(interpreter)
    return found is None or Path(found).absolute().parent == Path(sys.executable).absolute().parent
