"""A tensor as tiles: blocks along the rows of a tile, along its columns, or both from one reading of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import is_plain, prepare, quantize, quantize_wide, stored
from quantctl.kernels.cpu.compiled import INFINITY, kernel, magnitude, part
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import NEAREST, STOCHASTIC

ROWS, COLUMNS = 32, 256
"""Size of a tile: whole blocks of every format either way, and small enough for the first cache."""


class Geometry(NamedTuple):
    """A batch of matrices [m, n] by strides in elements; the stride along n is 1, but for the elements' numbers."""

    batch: Any
    m: Any
    n: Any
    x_batch: Any
    x_m: Any
    out_batch: Any
    out_m: Any
    number_batch: Any
    number_m: Any
    number_n: Any


def count(g: Geometry) -> int:
    """How many tiles there are."""
    return int(g.batch * -(-g.m // ROWS) * -(-g.n // COLUMNS))


@part
def _block(x: Any, source: Any, out: Any, target: Any, size: Any, e: Any, words: Any, how: Any) -> None:
    """One block: x [source ...] into out [target ...], `size` elements. Numbers are unsigned: no index is negative."""
    amax = np.int32(0)
    for j in range(size):
        amax = max(amax, magnitude(x[source + j]))
    if not is_plain(amax, e):
        for j in range(size):
            word = x[source + j]
            out[target + j] = stored(quantize_wide(magnitude(word), amax, e, words[j], how), word, e)
        return
    first, second = prepare(amax, e)
    if how == NEAREST:  # a constant in its own loop, which is the one that has to be fast
        for j in range(size):
            word = x[source + j]
            out[target + j] = stored(quantize(magnitude(word), first, second, e, words[j], NEAREST), word, e)
    else:
        for j in range(size):
            word = x[source + j]
            out[target + j] = stored(quantize(magnitude(word), first, second, e, words[j], how), word, e)


@part
def _rows(x: Any, out: Any, e: Any, block: Any, how: Any, key: Any, g: Any, tile: Any, words: Any) -> None:
    """A tile in blocks along n."""
    batch, row, column = tile
    width = min(COLUMNS, g.n - column)
    for i in range(row, min(row + ROWS, g.m)):
        source = batch * g.x_batch + i * g.x_m + column
        target = batch * g.out_batch + i * g.out_m + column
        if how == STOCHASTIC:
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        for j in range(0, width, block):
            size = np.uint64(min(block, width - j))
            _block(x, np.uint64(source + j), out, np.uint64(target + j), size, e, words[j:], how)


@part
def _columns(
    x: Any, out: Any, e: Any, block: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any
) -> None:  # fmt: skip
    """A tile in blocks along m, row by row: what a column's block has in common lies in the rows of `kept`."""
    batch, row, column = tile
    amax, firsts, seconds = kept
    width = min(COLUMNS, g.n - column)
    for top in range(row, min(row + ROWS, g.m), block):
        rows = range(top, min(top + block, g.m))
        for c in range(width):
            amax[c] = 0
        for i in rows:
            source = batch * g.x_batch + i * g.x_m + column
            values = x[source : source + width]
            for c in range(width):
                amax[c] = max(amax[c], magnitude(values[c]))
        plain = True
        for c in range(width):
            plain &= is_plain(amax[c], e)
            firsts[c], seconds[c] = prepare(amax[c], e)
        for i in rows:
            source = batch * g.x_batch + i * g.x_m + column
            target = batch * g.out_batch + i * g.out_m + column
            values, results = x[source : source + width], out[target : target + width]
            if how == STOCHASTIC:
                fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
            if not plain:
                for c in range(width):
                    bits = quantize_wide(magnitude(values[c]), amax[c], e, words[c], how)
                    results[c] = stored(bits, values[c], e)
            elif how == NEAREST:
                for c in range(width):
                    bits = quantize(magnitude(values[c]), firsts[c], seconds[c], e, words[c], NEAREST)
                    results[c] = stored(bits, values[c], e)
            else:
                for c in range(width):
                    bits = quantize(magnitude(values[c]), firsts[c], seconds[c], e, words[c], how)
                    results[c] = stored(bits, values[c], e)


@kernel
def quantize_dequantize(
    x: Any, last: Any, first: Any, e: Any, block: Any, how: Any, last_key: Any, first_key: Any, g: Any, start: Any,
    stop: Any
) -> None:  # fmt: skip
    """Tiles start .. stop of x in blocks along n into `last`, along m into `first`; one of them may be empty.

    x, last, first: flat words. The keys are those of the two's noise, where `how` is stochastic.
    """
    words = np.zeros(COLUMNS, np.int32)
    kept = np.zeros(COLUMNS, np.int32), np.zeros(COLUMNS, np.float32), np.zeros(COLUMNS, np.float32)
    row_tiles, column_tiles = (g.m + ROWS - 1) // ROWS, (g.n + COLUMNS - 1) // COLUMNS
    for number in range(start, stop):
        batch, rest = divmod(number, row_tiles * column_tiles)
        row, column = divmod(rest, column_tiles)
        tile = batch, row * ROWS, column * COLUMNS
        if len(last):
            _rows(x, last, e, block, how, last_key, g, tile, words)
        if first is not None and len(first):
            _columns(x, first, e, block, how, first_key, g, tile, words, kept)


@kernel
def finite_amax(x: Any, g: Any, start: Any, stop: Any) -> Any:
    """fp32 bits of the largest finite magnitude in rows start .. stop, counted over all matrices."""
    amax = np.int32(0)
    for row in range(start, stop):
        batch, i = divmod(row, g.m)
        source = batch * g.x_batch + i * g.x_m
        values = x[source : source + g.n]
        for j in range(g.n):
            bits = magnitude(values[j])
            amax = max(amax, bits if bits < np.int32(INFINITY) else np.int32(0))
    return amax
