"""The largest words of what lies side by side or below each other in a matrix, without their signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantctl.kernels.cpu.compiled import part
from quantctl.kernels.cpu.words import unsigned


@part
def largest_from(x: Any, start: Any, size: Any) -> Any:
    """Of x[start] and those behind it, `size` in all, one at least."""
    raw = unsigned(x[start])
    for j in range(size):
        raw = max(raw, unsigned(x[start + j]))
    return raw


@part
def largest_of_columns(x: Any, found: Any, g: Any, batch: Any, column: Any, width: Any, top: Any, stop: Any) -> None:
    """Of rows top .. stop in each of the `width` columns from `column` on, into `found`."""
    for c in range(width):
        found[c] = 0
    for i in range(top, stop):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        for c in range(width):
            found[c] = max(found[c], unsigned(x[source + c]))
