"""Tiles in small blocks, along rows, columns or both, from one reading of memory.

A tile goes through the first cache in chunks as high as a block. What is read of a chunk is copied, so that rows which
begin at one place of memory's pages do not drive each other out, and all else is done on the copy. Meanwhile memory is
asked for the next chunk, and for the lines that this one is written to: of each a part is written at a time. Of a
result that waits, rows are made in the first cache, and whole lines go past all of them, without being read before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantctl.kernels.cpu import mx, nvfp4, scaled
from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, prepare, quantize, stored, through
from quantctl.kernels.cpu.compiled import (
    fence,
    fetch_to_read,
    fetch_to_write,
    implements,
    part,
    stream_line,
    wide_vectors,
)
from quantctl.kernels.cpu.geometry import CACHE_LINE
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import is_stochastic
from quantctl.kernels.cpu.words import magnitude, unsigned, words_of
from quantctl.kernels.formats import mx as mx_format

_WIDTH = 512
"""Bytes of a chunk's rows: with as many rows as a block has, it leaves room for results in the first cache."""
WORDS = mx_format.BLOCK * _WIDTH // 2
"""Of the narrowest dtype in the highest chunk."""
_in_wide_vectors = wide_vectors(mx.MXNumbers, scaled.MXRoomNumbers)  # NVFP4's blocks are too short


@part
def will_read(x: Any, at: Any, width: Any) -> None:
    for c in range(np.uint64(0), width, np.uint64(CACHE_LINE // x.itemsize)):
        fetch_to_read(x, at + c)


@part
def will_write(out: Any, at: Any, width: Any) -> None:
    for c in range(np.uint64(0), width, np.uint64(CACHE_LINE // out.itemsize)):
        fetch_to_write(out, at + c)


@part
def put(row: Any, at: Any, out: Any, to: Any, width: Any, waits: Any, phase: Any) -> None:
    """row [at ...] into out [to ...], past the caches if it waits. phase: words in front of out[0] in its line."""
    begin = np.uint64(0)
    if waits:
        line = np.uint64(CACHE_LINE // row.itemsize)
        begin = min((line - (phase + to) % line) % line, width)
        for c in range(begin):
            out[to + c] = row[at + c]
        for _ in range((width - begin) // line):
            stream_line(row, at + begin, out, to + begin)
            begin += line
    for c in range(begin, width):
        out[to + c] = row[at + c]


@part
def write_block(
    x: Any, at: Any, out: Any, to: Any, size: Any, first: Any, second: Any, e: Any, words: Any, place: Any, how: Any
) -> None:
    """One block, as it is prepared: x [at ...] into out [to ...], `size` elements, words [place ...]."""
    _in_wide_vectors(e)
    for j in range(size):
        word = x[at + j]
        out[to + j] = stored(quantize(magnitude(word), first, second, e, words[place + j], how), word, e)


@part
def share(raw: Any, begin: Any, width: Any, across: Any) -> None:
    """The largest of each `across` of the `width` numbers from raw[begin] on, in all of them."""
    for c in range(np.uint64(0), width, across):
        stop = min(c + across, width)
        most = raw[begin + c]
        for j in range(c, stop):
            most = max(most, raw[begin + j])
        for j in range(c, stop):
            raw[begin + j] = most


@implements(through, e=[mx.MXNumbers, scaled.MXRoomNumbers, nvfp4.NVFP4Numbers, nvfp4.MultipliedNumbers])
def _through(x: Any, last: Any, first: Any, e: Any, how: Any, keys: Any, g: Any, tile: Any, room: Any) -> bool:
    _in_wide_vectors(e)
    batch, row, column = tile
    words, (raw, firsts, seconds), copy = room
    phase = np.uint64(first.address) // np.uint64(x.itemsize)
    along_rows, along_columns = last.span > 0, first.span > 0
    to_last, to_first = words_of(last), words_of(first)
    block: Any = np.uint64(block_of(e))
    step = np.uint64(_WIDTH // x.itemsize)
    x_m, out_m = np.uint64(g.x_m), np.uint64(g.out_m)
    plain = True
    for top in range(row, min(row + g.rows, g.m), np.int64(block)):
        height = min(block, np.uint64(g.m - top))
        for left in range(column, min(column + g.columns, g.n), np.int64(step)):
            source = np.uint64(batch * g.x_batch + top * g.x_m + left)
            target = np.uint64(batch * g.out_batch + top * g.out_m + left)
            width = min(step, np.uint64(g.n - left))
            whole = width // block
            blocks = (width + block - np.uint64(1)) // block
            down = height * blocks  # behind what the rows' blocks have in common lies that of the columns'
            for c in range(width):
                raw[down + c] = 0
            for i in range(height):
                if along_rows:
                    will_write(to_last, target + i * out_m, width)
                if along_columns and not g.waits:
                    will_write(to_first, target + i * out_m, width)
                for c in range(width):
                    word = x[source + i * x_m + c]
                    copy[i * step + c] = word
                    raw[down + c] = max(raw[down + c], unsigned(word))
                for c in range(width, blocks * block):
                    copy[i * step + c] = 0
                for b in range(blocks):
                    raw[i * blocks + b] = largest(copy, i * step + b * block, block, e)
            if along_columns and g.across > 1:
                share(raw, down, width, np.uint64(g.across))
            for k in range(down + width):
                amax = magnitude(raw[k])
                plain &= is_plain(amax, e)
                firsts[k], seconds[k] = prepare(amax, e)
            is_end = left + np.int64(step) >= g.n
            following = np.uint64(batch * g.x_batch + (top + np.int64(block)) * g.x_m) if is_end else source + step
            for i in range(height):
                will_read(x, following + i * x_m, width)
                at, to = i * step, target + i * out_m
                number = batch * g.number_batch + (top + np.int64(i)) * g.number_m + left * g.number_n
                if along_rows:
                    if is_stochastic(how):
                        fill(words, number, g.number_n, width, keys[0])
                    for b in range(whole):
                        j, k = b * block, i * blocks + b
                        write_block(copy, at + j, to_last, to + j, block, firsts[k], seconds[k], e, words, j, how)
                    if whole < blocks:
                        j, k = whole * block, i * blocks + whole
                        write_block(copy, at + j, to_last, to + j, width - j, firsts[k], seconds[k], e, words, j, how)
                if along_columns:
                    if is_stochastic(how):
                        fill(words, number, g.number_n, width, keys[1])
                    for c in range(width):
                        word = copy[at + c]
                        bits = quantize(magnitude(word), firsts[down + c], seconds[down + c], e, words[c], how)
                        copy[at + c] = stored(bits, word, e)
                    put(copy, at, to_first, to, width, g.waits, phase)
    if g.waits:
        fence()
    return plain
