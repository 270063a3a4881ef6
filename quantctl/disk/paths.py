"""Where quantctl keeps what is not part of a tree: state (backups, locks) and caches (staged trees)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from platformdirs import user_cache_path, user_state_path

from quantctl.errors import QuantctlError


def state_dir() -> Path:
    """Backups of trees outside git; XDG_STATE_HOME moves it."""
    return _absolute(user_state_path("quantctl", appauthor=False), "XDG_STATE_HOME")


def cache_dir() -> Path:
    """Staged trees and corpora, which can be made again; XDG_CACHE_HOME moves it."""
    return _absolute(user_cache_path("quantctl", appauthor=False), "XDG_CACHE_HOME")


def _absolute(path: Path, variable: str) -> Path:
    """Raises QuantctlError for a folder that would be another one in every directory."""
    if not path.is_absolute():
        raise QuantctlError(f"{path} is no absolute path", f"set {variable}, or HOME, to a folder's whole path")
    return path


def digest(*parts: str | bytes) -> str:
    """A short name for the parts, the same on every machine."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]
