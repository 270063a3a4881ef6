"""Where quantctl keeps what is not part of a tree: state (backups, locks) and caches (staged trees)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from platformdirs import user_cache_path, user_state_path


def state_dir() -> Path:
    """Backups of trees outside git; XDG_STATE_HOME moves it."""
    return user_state_path("quantctl", appauthor=False)


def cache_dir() -> Path:
    """Staged trees and corpora, which can be made again; XDG_CACHE_HOME moves it."""
    return user_cache_path("quantctl", appauthor=False)


def digest(*parts: str | bytes) -> str:
    """A short name for the parts, the same on every machine."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]
