"""docs/json.md as what it is held to: the keys of a document that a command printed, and their types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

Key = tuple[str, ...]
"""Names, `*` for any, and `[]` for the elements of a list."""
TYPES = {bool: "boolean", int: "integer", float: "number", str: "text", type(None): "null", dict: "object"}
_PAGE = Path(__file__).resolve().parents[2] / "docs" / "json.md"


@lru_cache(maxsize=1)
def documented() -> dict[str, dict[Key, set[str]]]:
    """Command -> key -> the types that it may have."""
    found: dict[str, dict[Key, set[str]]] = {}
    for section in _PAGE.read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
        found[section.splitlines()[0]] = {
            tuple(re.findall(r"\[\]|[^.\[\]]+", key)): set(re.split(r", | or ", kinds.strip())) for key, kinds in rows
        }
    return found


def _fits(pattern: Key, key: Key) -> bool:
    return len(pattern) == len(key) and all(p in ("*", k) for p, k in zip(pattern, key, strict=True))


def problems(command: str, value: Any) -> list[str]:
    """What a document has that the page does not say, and what it should have and does not."""
    page = documented()[command]

    def types(key: Key) -> set[str] | None:
        fitting = [page[pattern] for pattern in page if _fits(pattern, key)]
        return fitting[0] if fitting else None

    def above(key: Key) -> bool:
        """Whether the page goes on below a key."""
        return any(len(pattern) > len(key) and _fits(pattern[: len(key)], key) for pattern in page)

    def walk(key: Key, value: Any) -> Iterator[str]:
        allowed, kind = types(key), TYPES.get(type(value))
        if isinstance(value, list):
            if not above(key):
                yield f"{key}: an unknown list"
            for element in value:
                yield from walk((*key, "[]"), element)
            return
        if not isinstance(value, dict) or not above(key):
            if allowed is None:
                yield f"{key}: unknown"
            elif kind not in allowed and not (kind == "integer" and "number" in allowed):
                yield f"{key}: {kind}, not {allowed}"
            return
        for name, element in value.items():
            yield from walk((*key, name), element)
        for pattern in page:
            if len(pattern) > len(key) and _fits(pattern[: len(key)], key):
                name = pattern[len(key)]
                if name not in ("*", "[]") and name not in value:
                    yield f"{(*key, name)}: missing"

    return list(dict.fromkeys(walk((), value)))
