"""A tensor as tiles: blocks along the rows of a tile, along its columns, or both from one reading of it.

Blocks at the ends of the range are left to rest.py, tile by tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, prepare, quantize, stored
from quantctl.kernels.cpu.compiled import Kernel, part
from quantctl.kernels.cpu.geometry import place
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import is_stochastic
from quantctl.kernels.cpu.words import magnitude, unsigned, words_of

ROWS, COLUMNS = 32, 1024
"""Size of a tile: whole blocks of every format either way. Rows long enough for what reads ahead in memory, and a tile
still in the second cache."""


@part
def _block(x: Any, at: Any, out: Any, to: Any, size: Any, raw: Any, e: Any, words: Any, place: Any, how: Any) -> bool:
    """One block: x [at ...] into out [to ...], `size` elements, words [place ...]; raw: their largest, unsigned."""
    amax = magnitude(raw)
    first, second = prepare(amax, e)
    for j in range(size):
        word = x[at + j]
        out[to + j] = stored(quantize(magnitude(word), first, second, e, words[place + j], how), word, e)
    return is_plain(amax, e)


@part
def _rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any) -> bool:
    """A tile in blocks along n. Whether all of them are plain."""
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    block: Any = np.uint64(block_of(e))
    whole = width // block * block
    plain = True
    for i in range(row, min(row + g.rows, g.m)):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        if is_stochastic(how):
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        for b in range(whole // block):
            j = b * block
            plain &= _block(x, source + j, out, target + j, block, largest(x, source + j, block, e), e, words, j, how)
        if whole < width:
            raw = unsigned(x[source + whole])
            for j in range(whole, width):
                raw = max(raw, unsigned(x[source + j]))
            plain &= _block(x, source + whole, out, target + whole, width - whole, raw, e, words, whole, how)
    return plain


@part
def _shared(raw: Any, width: Any, across: Any) -> None:
    """The largest of each `across` columns, in all of them."""
    for c in range(0, width, across):
        stop = min(c + across, width)
        most = raw[c]
        for j in range(c, stop):
            most = max(most, raw[j])
        for j in range(c, stop):
            raw[j] = most


@part
def _columns(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> bool:
    """A tile in blocks along m, row by row: what a column's block has in common lies in the rows of `kept`."""
    batch, row, column = tile
    raw, firsts, seconds = kept
    width = np.uint64(min(g.columns, g.n - column))
    block = np.int64(block_of(e))
    plain = True
    for top in range(row, min(row + g.rows, g.m), block):
        rows = range(top, min(top + block, g.m))
        for c in range(width):
            raw[c] = 0
        for i in rows:
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            for c in range(width):
                raw[c] = max(raw[c], unsigned(x[source + c]))
        if g.across > 1:
            _shared(raw, width, np.uint64(g.across))
        for c in range(width):
            amax = magnitude(raw[c])
            plain &= is_plain(amax, e)
            firsts[c], seconds[c] = prepare(amax, e)
        for i in rows:
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            target = np.uint64(batch * g.out_batch + i * g.out_m + column)
            if is_stochastic(how):
                fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
            for c in range(width):
                word = x[source + c]
                bits = quantize(magnitude(word), firsts[c], seconds[c], e, words[c], how)
                out[target + c] = stored(bits, word, e)
    return plain


@part
def _elements(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any) -> None:
    """A tile of a format without blocks."""
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    none = np.float32(0.0)
    for i in range(row, min(row + g.rows, g.m)):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        if is_stochastic(how):
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        for c in range(width):
            word = x[source + c]
            out[target + c] = stored(quantize(magnitude(word), none, none, e, words[c], how), word, e)


_place = part(place)


@Kernel
def quantize_dequantize(
    x: Any, last: Any, first: Any, e: Any, how: Any, last_key: Any, first_key: Any, g: Any, start: Any, stop: Any
) -> int:
    """Tiles start .. stop of x in blocks along n into `last`, along m, or in squares, into `first`; one may be empty.

    x, last, first: memory; first is None for formats without blocks. The keys are those of the two's noise.
    Returns the first tile with a block that is not plain, whose results are wrong; those behind it are not made.
    """
    source, by_rows = words_of(x), words_of(last)
    words = np.zeros(g.columns + 4, np.int32)
    kept = np.zeros(g.columns, source.dtype), np.zeros(g.columns, np.float32), np.zeros(g.columns, np.float32)
    for number in range(start, stop):
        tile = _place(number, g)
        if first is None:
            _elements(source, by_rows, e, how, last_key, g, tile, words)
        else:
            if last.span and not _rows(source, by_rows, e, how, last_key, g, tile, words):
                return number
            if first.span and not _columns(source, words_of(first), e, how, first_key, g, tile, words, kept):
                return number
    return stop


@Kernel
def amax(x: Any, g: Any, most: Any, start: Any, stop: Any) -> Any:
    """fp32 bits of the largest magnitude in rows start .. stop, counted over all matrices.

    most: the largest word that counts, without a sign.
    """
    words = words_of(x)
    zero = words.dtype.type(0)
    found = zero
    for row in range(start, stop):
        batch, i = divmod(row, g.m)
        source = np.uint64(batch * g.x_batch + i * g.x_m)
        for j in range(np.uint64(g.n)):
            word = unsigned(words[source + j])
            found = max(found, word if word <= most else zero)
    return magnitude(found)
