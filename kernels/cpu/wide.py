"""Tiles with blocks at the ends of the range, NaN and Inf among them: right for every block, and not in a hurry.

Not in tiles.py, so that what is hardly ever met is compiled when it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantctl.kernels.cpu.blocks import block_of, quantize_wide, stored
from quantctl.kernels.cpu.compiled import Kernel, part
from quantctl.kernels.cpu.noise import word_of
from quantctl.kernels.cpu.rounding import is_stochastic
from quantctl.kernels.cpu.tiles import COLUMNS, ROWS, place
from quantctl.kernels.cpu.words import magnitude


@part
def _block(x: Any, out: Any, at: Any, to: Any, number: Any, steps: Any, size: Any, e: Any, how: Any, key: Any) -> None:
    """`size` elements from x [at] to out [to] by the steps of both, and of the elements' numbers."""
    amax = np.int32(0)
    for j in range(size):
        amax = max(amax, magnitude(x[at + j * steps[0]]))
    for j in range(size):
        noise = word_of(number + j * steps[2], key) if is_stochastic(how) else np.int32(0)
        word = x[at + j * steps[0]]
        out[to + j * steps[1]] = stored(quantize_wide(magnitude(word), amax, e, noise, how), word, e)


@Kernel
def quantize_dequantize(
    x: Any, last: Any, first: Any, e: Any, how: Any, last_key: Any, first_key: Any, g: Any, start: Any, stop: Any
) -> None:
    """As that of tiles.py, which has no result for some blocks of these tiles."""
    block = np.int64(block_of(e))
    for tile in range(start, stop):
        batch, row, column = place(tile, g)
        x_at, out_at, number = batch * g.x_batch, batch * g.out_batch, batch * g.number_batch
        bottom, right = min(row + ROWS, g.m), min(column + COLUMNS, g.n)
        if len(last):
            for i in range(row, bottom):
                for j in range(column, right, block):
                    at, to = x_at + i * g.x_m + j, out_at + i * g.out_m + j
                    _block(x, last, at, to, number + i * g.number_m + j * g.number_n, (1, 1, g.number_n),
                           min(block, right - j), e, how, last_key)  # fmt: skip
        if len(first):
            for i in range(row, bottom, block):
                for j in range(column, right):
                    at, to = x_at + i * g.x_m + j, out_at + i * g.out_m + j
                    _block(x, first, at, to, number + i * g.number_m + j * g.number_n, (g.x_m, g.out_m, g.number_m),
                           min(block, bottom - i), e, how, first_key)  # fmt: skip
