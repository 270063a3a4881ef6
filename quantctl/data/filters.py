"""Which documents are left out, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DISAMBIGUATION = re.compile(r"\b(may|can)( also)? refer to\b[^.]{0,40}:")
_HEAD = 300
"""Characters at the start of an article that say whether it only lists others."""


@dataclass(frozen=True)
class Filters:
    """A document passes if every filter lets it. What is not set lets everything pass."""

    min_chars: int = 1
    """Fewest characters of a document; an empty one is never kept."""
    max_chars: int | None = None
    """Most characters of a document."""
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Field of the record and the values of it that pass, such as ("source", ("wiki", "books"))."""
    disambiguation: bool = False
    """Leave out Wikipedia's pages that only say what a title may refer to."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The record's fields that are looked at, the text aside."""
        return tuple(field for field, _ in self.where)

    def reason(self, text: str, record: Mapping[str, Any]) -> str | None:
        """Why the document is left out; None if it is kept."""
        if not text:
            return "empty"
        if len(text) < self.min_chars:
            return f"below {self.min_chars} characters"
        if self.max_chars is not None and len(text) > self.max_chars:
            return f"above {self.max_chars} characters"
        for field, values in self.where:
            if str(record.get(field)) not in values:
                return f"{field} is another"
        if self.disambiguation and _DISAMBIGUATION.search(text[:_HEAD]):
            return "disambiguation page"
        return None
