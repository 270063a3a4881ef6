"""Numbers in text that others wrote: ASCII digits of a sane length, or none at all.

int() takes the digits of every script, blanks and underscores, and raises on more than 4,300 digits; float() takes
`infinity` and `1_0`.
"""

from __future__ import annotations

import math
import re

DIGITS = "[0-9]{1,18}"
"""Of a whole number that fits into 64 bits."""

_WHOLE = re.compile(f"[+-]?{DIGITS}")
_LONGEST = 64
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def whole(text: str) -> int | None:
    """The whole number that `text` is, of at most 18 digits; None for anything else."""
    return int(text) if _WHOLE.fullmatch(text) else None


def real(text: str) -> float | None:
    """The finite number that `text` is; None for anything else, and beyond what a float holds."""
    if len(text) > _LONGEST or not _REAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
