"""The literals that docs/formats.md explains, to be parsed, set and trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
_HEADER = "| selector | literal | in words |"


class Example(NamedTuple):
    """A row of the table."""

    site: str
    """linear, lm_head, qk or pv."""
    literal: str
    words: str

    @property
    def wants_experts(self) -> bool:
        """Whether it speaks of modules that only a mixture of experts has."""
        return "experts" in self.literal


def examples() -> list[Example]:
    """Those of the table, in its order."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(_HEADER) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        site, literal, words = (cell.strip() for cell in line.strip("|").split(" | "))
        found.append(Example(site.replace("-", "_"), literal.strip("`"), words))
    return found
