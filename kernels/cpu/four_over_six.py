"""NVFP4 whose blocks choose their largest element, 4 or 6, by the error; formats/four_over_six.py has the formulas.

Each operation is rounded as there, and errors are added up in the order that is said there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import columns, of_line, rows
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements, part
from quantctl.kernels.cpu.largest import largest_from, largest_of_columns
from quantctl.kernels.cpu.nvfp4 import (
    ELEMENT_LARGEST,
    ELEMENT_LOWEST,
    ELEMENT_MANTISSA,
    FP32_LARGEST,
    SCALE_LARGEST,
    SCALE_LOWEST,
    SCALE_MANTISSA,
    quotient,
)
from quantctl.kernels.cpu.rounding import nearest
from quantctl.kernels.cpu.words import INFINITY, magnitude, rounded, signed, unsigned
from quantctl.kernels.formats import four_over_six, nvfp4

_BLOCK = nvfp4.BLOCK
_largest = LARGEST[_BLOCK]
_ONE, _MORE = np.float32(1.0), np.float32(1.5)
_LIMIT = np.float32(ELEMENT_LARGEST * np.float32(four_over_six.SCALE_LIMIT))
_OF_AMAX = np.float32(1 / float(_LIMIT))


class Numbers(NamedTuple):
    """fp32."""

    encode: Any
    decode: Any
    amax: Any
    dtype_largest: Any
    squared: Any
    """Whether errors are."""
    by_rows: Any
    """In squares: whether the quantized axis is that of the rows."""


class Lines(NamedTuple):
    """The same, with an encode, a decode and an amax for each line."""

    encode: Any
    decode: Any
    amax: Any
    dtype_largest: Any
    squared: Any


def numbers(amax: Any, scale: str, dtype_largest: float, *, by_rows: bool) -> Numbers | Lines:
    """amax: fp32, the largest finite magnitude of the tensor, or of each line."""
    encode = quotient(_LIMIT, amax, FP32_LARGEST)
    parts = encode, _ONE / encode, amax, np.float32(dtype_largest), scale == "4over6_mse"
    return Lines(*parts) if isinstance(amax, np.ndarray) else Numbers(*parts, by_rows)


@implements(of_line, e=Numbers)
def _same(e: Any, line: Any) -> Any:
    return e


@implements(of_line, e=Lines)
def _of_line(e: Any, line: Any) -> Any:
    return Numbers(e.encode[line], e.decode[line], e.amax[line], e.dtype_largest, e.squared, False)


@part
def _candidate(amax: Any, more: Any, e: Any) -> Any:
    """b, and what elements are multiplied by before rounding."""
    wanted = (as_float(amax) / ELEMENT_LARGEST) * e.encode
    b = nearest(as_bits(min(wanted * more, SCALE_LARGEST)), SCALE_LOWEST, SCALE_MANTISSA)
    return b, min(_ONE / (b * e.decode), FP32_LARGEST)


@part
def _element(bits: Any, inverse: Any) -> Any:
    return nearest(as_bits(min(as_float(bits) * inverse, ELEMENT_LARGEST)), ELEMENT_LOWEST, ELEMENT_MANTISSA)


@part
def _error(bits: Any, b: Any, inverse: Any, e: Any) -> Any:
    off = ((_element(bits, inverse) * b) * e.amax) / _LIMIT - as_float(bits)
    return off * off if e.squared else abs(off)


@part
def _stored(word: Any, b: Any, inverse: Any, e: Any) -> Any:
    factor = (b * e.amax) * _OF_AMAX
    value = min(_element(magnitude(word), inverse) * factor, e.dtype_largest)
    return signed(rounded(as_bits(value), word), word)


@part
def _largest_of(x: Any, start: Any, size: Any) -> Any:
    if size == np.uint64(_BLOCK):
        return _largest(x, start)
    return largest_from(x, start, size)


@implements(rows, e=[Numbers, Lines])
def _rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    # what a block has in common lies beside each of its elements, so that loops go over whole rows
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    block = np.uint64(_BLOCK)
    plain = True
    six, by_six, four, by_four, error_six, error_four = np.empty((6, width), np.float32)
    for i in range(row, min(row + g.rows, g.m)):
        own = of_line(e, np.uint64(batch * g.m + i))
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        for first in range(np.uint64(0), width, block):
            end = min(first + block, width)
            amax = magnitude(_largest_of(x, source + first, end - first))
            plain &= amax < np.int32(INFINITY)
            b_six, inverse_six = _candidate(amax, _ONE, own)
            b_four, inverse_four = _candidate(amax, _MORE, own)
            for c in range(first, end):
                six[c], by_six[c], four[c], by_four[c] = b_six, inverse_six, b_four, inverse_four
        for c in range(width):
            bits = magnitude(x[source + c])
            error_six[c] = _error(bits, six[c], by_six[c], own)
            error_four[c] = _error(bits, four[c], by_four[c], own)
        for first in range(np.uint64(0), width, block):
            end = min(first + block, width)
            off_six = off_four = np.float32(0.0)
            for c in range(first, end):
                off_six += error_six[c]
                off_four += error_four[c]
            if off_four < off_six:
                for c in range(first, end):
                    six[c], by_six[c] = four[c], by_four[c]
        for c in range(width):
            out[target + c] = _stored(x[source + c], six[c], by_six[c], own)
    return plain


@part
def _errors_of_square(x: Any, at: Any, step: Any, stride: Any, lines: Any, size: Any, b: Any, inverse: Any, e: Any,
                      sums: Any) -> Any:  # fmt: skip
    """lines of `size` elements, `stride` apart: each one's errors in turn, then lines in pairs."""
    for line in range(_BLOCK):
        total = np.float32(0.0)
        if line < lines:
            for j in range(size):
                total += _error(magnitude(x[np.uint64(at + line * step + j * stride)]), b, inverse, e)
        sums[line] = total
    half = _BLOCK // 2
    while half:
        for line in range(half):
            sums[line] += sums[line + half]
        half //= 2
    return sums[0]


@part
def _squares(x: Any, out: Any, e: Any, g: Any, tile: Any) -> Any:
    batch, row, column = tile
    plain, sums = True, np.empty(_BLOCK, np.float32)
    for top in range(row, min(row + g.rows, g.m), _BLOCK):
        for left in range(column, min(column + g.columns, g.n), _BLOCK):
            down, right = min(_BLOCK, g.m - top), min(_BLOCK, g.n - left)
            at, to = batch * g.x_batch + top * g.x_m + left, batch * g.out_batch + top * g.out_m + left
            raw = unsigned(x[np.uint64(at)])
            for i in range(down):
                for j in range(right):
                    raw = max(raw, unsigned(x[np.uint64(at + i * g.x_m + j)]))
            amax = magnitude(raw)
            plain &= amax < np.int32(INFINITY)
            step, stride, lines, size = (g.x_m, 1, down, right) if e.by_rows else (1, g.x_m, right, down)
            six, by_six = _candidate(amax, _ONE, e)
            four, by_four = _candidate(amax, _MORE, e)
            error_six = _errors_of_square(x, at, step, stride, lines, size, six, by_six, e, sums)
            error_four = _errors_of_square(x, at, step, stride, lines, size, four, by_four, e, sums)
            b, inverse = (four, by_four) if error_four < error_six else (six, by_six)
            for i in range(down):
                for j in range(right):
                    word = x[np.uint64(at + i * g.x_m + j)]
                    out[np.uint64(to + i * g.out_m + j)] = _stored(word, b, inverse, e)
    return plain


@part
def _columns(x: Any, out: Any, e: Any, g: Any, tile: Any, raw: Any) -> Any:
    """A block's numbers lie in rows of width `columns`: b and its inverse by six and by four, and the errors."""
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    line = np.uint64(batch * g.n + column)
    plain = True
    six, by_six, four, by_four, error_six, error_four = np.empty((6, width), np.float32)
    for top in range(row, min(row + g.rows, g.m), _BLOCK):
        lines = range(top, min(top + _BLOCK, g.m))
        largest_of_columns(x, raw, g, batch, column, width, top, min(top + _BLOCK, g.m))
        for c in range(width):
            own, amax = of_line(e, line + c), magnitude(raw[c])
            plain &= amax < np.int32(INFINITY)
            six[c], by_six[c] = _candidate(amax, _ONE, own)
            four[c], by_four[c] = _candidate(amax, _MORE, own)
            error_six[c] = error_four[c] = np.float32(0.0)
        for i in lines:
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            for c in range(width):
                own, bits = of_line(e, line + c), magnitude(x[source + c])
                error_six[c] += _error(bits, six[c], by_six[c], own)
                error_four[c] += _error(bits, four[c], by_four[c], own)
        for c in range(width):
            if error_four[c] < error_six[c]:
                six[c], by_six[c] = four[c], by_four[c]
        for i in lines:
            source = np.uint64(batch * g.x_batch + i * g.x_m + column)
            target = np.uint64(batch * g.out_batch + i * g.out_m + column)
            for c in range(width):
                out[target + c] = _stored(x[source + c], six[c], by_six[c], of_line(e, line + c))
    return plain


@implements(columns, e=Numbers)
def _columns_or_squares(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    return _squares(x, out, e, g, tile) if g.across > 1 else _columns(x, out, e, g, tile, kept[0])


@implements(columns, e=Lines)
def _columns_of_lines(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    return _columns(x, out, e, g, tile, kept[0])
