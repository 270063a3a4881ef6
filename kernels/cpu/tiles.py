"""A tensor as tiles: blocks along the rows of a tile, along its columns, or both from one reading of it.

Blocks at the ends of the range are left to rest.py, tile by tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.types import int64, none

from quantctl.kernels.cpu import chunks, four_over_six, hifp4, nvfp4, scaled
from quantctl.kernels.cpu.blocks import (
    block_of,
    columns,
    is_plain,
    largest,
    of_line,
    prepare,
    quantize,
    rows,
    stored,
    through,
)
from quantctl.kernels.cpu.chunks import share, will_write, write_block
from quantctl.kernels.cpu.compiled import Kernel, implements, part
from quantctl.kernels.cpu.geometry import place
from quantctl.kernels.cpu.largest import largest_from, largest_of_columns
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import is_stochastic
from quantctl.kernels.cpu.words import Memory, magnitude, unsigned, words_of

ROWS, COLUMNS = 32, 1024
"""Size of a tile: whole blocks of every format either way. Rows long enough for what reads ahead in memory, and a tile
still in the second cache."""

_OF_TENSOR = [scaled.FP8Numbers, scaled.INT8Numbers]
_OF_LINES = [nvfp4.DividedLines, nvfp4.MultipliedLines]
_BY_THEMSELVES = [hifp4.Numbers, four_over_six.Numbers, four_over_six.Lines]


@implements(of_line, e=_OF_TENSOR)
def _same(e: Any, line: Any) -> Any:
    return e


_AHEAD = 8
"""Rows that memory has been asked for before they are written: each of its lines waits to be read before that."""


@implements(rows, e=[*_OF_TENSOR, *_OF_LINES])
def _rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> bool:
    # of some rows the largest of all blocks, then what these have in common, then the elements: no block waits for
    # another, and there is much of each kind to do at once
    batch, row, column = tile
    raw, firsts, seconds = kept
    width = np.uint64(min(g.columns, g.n - column))
    block: Any = np.uint64(block_of(e))
    whole = width // block
    blocks = (width + block - np.uint64(1)) // block
    together: Any = max(np.int64(g.columns) // np.int64(width), 1)
    plain = True
    for top in range(row, min(row + g.rows, g.m), together):
        stop = min(top + together, g.m, row + g.rows)
        for i in range(top, stop):
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            place = np.uint64(i - top) * blocks
            for b in range(whole):
                raw[place + b] = largest(x, source + b * block, block, e)
            if whole < blocks:
                raw[place + whole] = largest_from(x, source + whole * block, width - whole * block)
        for k in range(np.uint64(stop - top) * blocks):
            amax = magnitude(raw[k])
            plain &= is_plain(amax, e)
            firsts[k], seconds[k] = prepare(amax, of_line(e, np.uint64(batch * g.m + top) + k // blocks))
        for i in range(top, stop):
            own = of_line(e, np.uint64(batch * g.m + i))
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            target = np.uint64(batch * g.out_batch + i * g.out_m + column)
            place = np.uint64(i - top) * blocks
            if is_stochastic(how):
                fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
            will_write(out, target + np.uint64(_AHEAD * g.out_m), width)
            for b in range(whole):
                j, k = b * block, place + b
                write_block(x, source + j, out, target + j, block, firsts[k], seconds[k], own, words, j, how)
            if whole < blocks:
                j, k = whole * block, place + whole
                write_block(x, source + j, out, target + j, width - j, firsts[k], seconds[k], own, words, j, how)
    return plain


@implements(columns, e=[*_OF_TENSOR, *_OF_LINES])
def _columns(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> bool:
    # row by row: what a column's block has in common lies in the rows of `kept`
    batch, row, column = tile
    raw, firsts, seconds = kept
    width = np.uint64(min(g.columns, g.n - column))
    line = np.uint64(batch * g.n + column)
    block = np.int64(block_of(e))
    plain = True
    for top in range(row, min(row + g.rows, g.m), block):
        stop = min(top + block, g.m)
        largest_of_columns(x, raw, g, batch, column, width, top, stop)
        if g.across > 1:
            share(raw, np.uint64(0), width, np.uint64(g.across))
        for c in range(width):
            amax = magnitude(raw[c])
            plain &= is_plain(amax, e)
            firsts[c], seconds[c] = prepare(amax, of_line(e, line + c))
        for i in range(top, stop):
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            target = np.uint64(batch * g.out_batch + i * g.out_m + column)
            if is_stochastic(how):
                fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
            will_write(out, target + np.uint64(_AHEAD * g.out_m), width)
            for c in range(width):
                word, own = x[source + c], of_line(e, line + c)
                bits = quantize(magnitude(word), firsts[c], seconds[c], own, words[c], how)
                out[target + c] = stored(bits, word, own)
    return plain


@implements(through, first=Memory, e=[*_OF_TENSOR, *_OF_LINES, *_BY_THEMSELVES])
def _in_blocks(x: Any, last: Any, first: Any, e: Any, how: Any, keys: Any, g: Any, tile: Any, room: Any) -> Any:
    words, kept, _ = room
    plain = True
    if last.span:
        plain &= rows(x, words_of(last), e, how, keys[0], g, tile, words, kept)
    if first.span and plain:
        plain &= columns(x, words_of(first), e, how, keys[1], g, tile, words, kept)
    return plain


@implements(through, first=none)
def _elements(x: Any, last: Any, first: Any, e: Any, how: Any, keys: Any, g: Any, tile: Any, room: Any) -> Any:
    out, key, words = words_of(last), keys[0], room[0]
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    nothing = np.float32(0.0)
    for i in range(row, min(row + g.rows, g.m)):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        if is_stochastic(how):
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        for c in range(width):
            word = x[source + c]
            out[target + c] = stored(quantize(magnitude(word), nothing, nothing, e, words[c], how), word, e)
    return True


_place = part(place)


def _result(address: Any, like: Any, g: Any) -> Any:
    """What is written to, which is empty at address 0."""


@implements(_result, address=int64)
def _memory(address: Any, like: Any, g: Any) -> Any:
    return Memory(address, g.out_span if address else 0, like)


@implements(_result, address=none)
def _no_memory(address: Any, like: Any, g: Any) -> Any:
    return None


@Kernel
def quantize_dequantize(
    x: Any,
    last: Any,
    first: Any,
    like: Any,
    e: Any,
    how: Any,
    last_key: Any,
    first_key: Any,
    g: Any,
    start: Any,
    stop: Any,
) -> int:
    """Tiles start .. stop of x in blocks along n into `last`, along m, or in squares, into `first`; one may be 0.

    x, last, first: addresses of words of the kind of `like`; first is None for formats without blocks. The keys are
    those of the two's noise, None where no rounding takes any.
    Returns the first tile with a block that is not plain, whose results are wrong; those behind it are not made.
    """
    source = words_of(Memory(x, g.x_span, like))
    results = _result(last, like, g), _result(first, like, g)
    words = np.zeros(g.columns + 4, np.int32)
    kept = np.zeros(g.columns, source.dtype), np.zeros(g.columns, np.float32), np.zeros(g.columns, np.float32)
    copy = np.empty(chunks.WORDS, source.dtype)
    for number in range(start, stop):
        tile = _place(number, g)
        if not through(source, *results, e, how, (last_key, first_key), g, tile, (words, kept, copy)):
            return number
    return stop


@Kernel
def amax_of_lines(x: Any, g: Any, most: Any, by_rows: Any, found: Any, start: Any, stop: Any) -> None:
    """fp32 bits of the largest magnitude of each row, or column, of matrices start .. stop into found [lines]."""
    words = words_of(x)
    for batch in range(start, stop):
        for i in range(g.m):
            source = np.uint64(batch * g.x_batch + i * g.x_m)
            for j in range(np.uint64(g.n)):
                word = unsigned(words[source + j])
                line = np.uint64(batch * g.m + i) if by_rows else np.uint64(batch * g.n) + j
                found[line] = max(found[line], magnitude(word) if word <= most else np.int32(0))


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
