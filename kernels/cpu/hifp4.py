"""HiFloat4 on fp32 magnitudes; formats/hifp4.py has the formulas. Four neighbours have what their elements want."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import columns, rows
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements, part
from quantctl.kernels.cpu.largest import largest_of_columns
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import is_stochastic, nearest, rounded_to
from quantctl.kernels.cpu.scaled import whole_numbers
from quantctl.kernels.cpu.words import INFINITY, magnitude, rounded, signed, unsigned
from quantctl.kernels.formats import hifp4
from quantctl.kernels.formats.hifp4 import E6M2
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

_BLOCK, _FOUR = hifp4.BLOCK, hifp4.FOUR
_FOURS = _BLOCK // _FOUR
_largest = LARGEST[_FOURS]
_FACTOR, _ELEMENT_LARGEST = np.float32(hifp4.FACTOR), np.float32(hifp4.LARGEST)
_SCALE_LOWEST = np.int32((BIAS + E6M2.min_exponent) << MANTISSA_BITS)
_SCALE_MANTISSA = np.int32(E6M2.mantissa_bits << MANTISSA_BITS)
_SCALE_LARGEST, _SCALE_SMALLEST = np.float32(E6M2.largest), np.float32(hifp4.SMALLEST_SCALE)
_INTEGER_LOWEST, _INTEGER_MANTISSA = whole_numbers(0.0)[:2]
_ONE, _HALF, _QUARTER = np.float32(1.0), np.float32(0.5), np.float32(0.25)
_BF16 = np.uint16(0)


class Numbers(NamedTuple):
    dtype_largest: Any


def numbers(dtype_largest: float) -> Numbers:
    return Numbers(np.float32(dtype_largest))


@part
def _scale(amax: Any) -> Any:
    """s and r of a block."""
    wanted = rounded(as_bits(as_float(amax) * _FACTOR), _BF16)
    limited = as_bits(min(as_float(wanted), _SCALE_LARGEST))
    s = max(nearest(limited, _SCALE_LOWEST, _SCALE_MANTISSA), _SCALE_SMALLEST)
    return s, as_float(rounded(as_bits(_ONE / s), _BF16))


@part
def _of_four(eight: Any, four: Any, s: Any, r: Any) -> Any:
    """What four neighbours are multiplied by before they are rounded to integers, and behind it."""
    second = _HALF if as_float(eight) * r >= np.float32(4.0) else _ONE
    third = _HALF if (as_float(four) * r) * second >= np.float32(2.0) else _ONE
    inverse = second * third
    back = np.float32(4.0) if inverse == _QUARTER else (np.float32(2.0) if inverse == _HALF else _ONE)
    return r * (np.float32(4.0) * inverse), back * (s * _QUARTER)


@part
def _stored(word: Any, before: Any, behind: Any, e: Any, noise: Any, how: Any) -> Any:
    y = as_bits(min(as_float(magnitude(word)) * before, _ELEMENT_LARGEST))
    k = rounded_to(y, _INTEGER_LOWEST, _INTEGER_MANTISSA, noise, how)
    return signed(rounded(as_bits(min(k * behind, e.dtype_largest)), word), word)


@part
def _largest_of_fours(x: Any, source: Any, width: Any, fours: Any, eights: Any) -> None:
    """The largest words of each four and each eight neighbours of a row, both by the number of the four."""
    one, two, three, size = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(_FOUR)
    for f in range(width // size):
        at = source + f * size
        first, last = max(unsigned(x[at]), unsigned(x[at + one])), max(unsigned(x[at + two]), unsigned(x[at + three]))
        fours[f] = max(first, last)
    for f in range(width // size, np.uint64(len(fours))):
        fours[f] = 0
    for j in range(width // size * size, width):
        fours[width // size] = max(fours[width // size], unsigned(x[source + j]))
    for p in range(np.uint64(len(fours)) // two):
        both = max(fours[two * p], fours[two * p + one])
        eights[two * p], eights[two * p + one] = both, both


@implements(rows, e=Numbers)
def _rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    # of a whole row: fours, then blocks, then elements, so that each loop is one over neighbours
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    of_block, size = np.uint64(_FOURS), np.uint64(_FOUR)
    count = (width + np.uint64(_BLOCK - 1)) // np.uint64(_BLOCK) * of_block
    plain = True
    fours, eights = np.empty((2, count), x.dtype)
    scales, inverses = np.empty((2, count), np.float32)
    befores, behinds = np.empty((2, count * size), np.float32)
    for i in range(row, min(row + g.rows, g.m)):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        if is_stochastic(how):
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        _largest_of_fours(x, source, width, fours, eights)
        for first in range(np.uint64(0), count, of_block):
            amax = magnitude(_largest(fours, first))
            plain &= amax < np.int32(INFINITY)
            s, r = _scale(amax)
            for f in range(first, first + of_block):
                scales[f], inverses[f] = s, r
        for f in range(count):
            before, behind = _of_four(magnitude(eights[f]), magnitude(fours[f]), scales[f], inverses[f])
            for j in range(f * size, f * size + size):
                befores[j], behinds[j] = before, behind
        for c in range(width):
            out[target + c] = _stored(x[source + c], befores[c], behinds[c], e, words[c], how)
    return plain


@implements(columns, e=Numbers)
def _columns(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    plain, (raw, befores, behinds) = True, kept
    fours, scales = np.empty((_FOURS, width), x.dtype), np.empty((2, width), np.float32)
    for top in range(row, min(row + g.rows, g.m), _BLOCK):
        stop = min(top + _BLOCK, g.m)
        for c in range(width):
            raw[c] = 0
        for f in range(_FOURS):
            own = fours[f]
            first = top + f * _FOUR
            largest_of_columns(x, own, g, batch, column, width, first, min(first + _FOUR, stop))
            for c in range(width):
                raw[c] = max(raw[c], own[c])
        for c in range(width):
            amax = magnitude(raw[c])
            plain &= amax < np.int32(INFINITY)
            scales[0, c], scales[1, c] = _scale(amax)
        for f in range(_FOURS):
            own, other = fours[f], fours[f ^ 1]
            for c in range(width):
                eight, four = magnitude(max(own[c], other[c])), magnitude(own[c])
                befores[c], behinds[c] = _of_four(eight, four, scales[0, c], scales[1, c])
            for i in range(top + f * _FOUR, min(top + f * _FOUR + _FOUR, stop)):
                source = np.uint64(batch * g.x_batch + i * g.x_m + column)
                target = np.uint64(batch * g.out_batch + i * g.out_m + column)
                if is_stochastic(how):
                    number = batch * g.number_batch + i * g.number_m + column * g.number_n
                    fill(words, number, g.number_n, width, key)
                for c in range(width):
                    out[target + c] = _stored(x[source + c], befores[c], behinds[c], e, words[c], how)
    return plain
