"""HiFloat4 on fp32 magnitudes; formats/hifp4.py has the formulas. Four neighbours have what their elements want."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import columns, rows
from quantctl.kernels.cpu.compiled import as_bits, as_float, implements, part
from quantctl.kernels.cpu.noise import fill
from quantctl.kernels.cpu.rounding import is_stochastic, nearest, rounded_to
from quantctl.kernels.cpu.scaled import whole_numbers
from quantctl.kernels.cpu.words import INFINITY, magnitude, rounded, signed, unsigned
from quantctl.kernels.formats import hifp4
from quantctl.kernels.formats.hifp4 import E6M2
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

_BLOCK, _FOUR = hifp4.BLOCK, hifp4.FOUR
_FOURS = _BLOCK // _FOUR
_FACTOR, _ELEMENT_LARGEST = np.float32(hifp4.FACTOR), np.float32(hifp4.LARGEST)
_SCALE_LOWEST = np.int32((BIAS + E6M2.min_exponent) << MANTISSA_BITS)
_SCALE_MANTISSA = np.int32(E6M2.mantissa_bits << MANTISSA_BITS)
_SCALE_LARGEST, _SCALE_SMALLEST = np.float32(E6M2.largest), np.float32(hifp4.SMALLEST_SCALE)
_INTEGER_LOWEST, _INTEGER_MANTISSA = whole_numbers(0.0)[:2]
_ONE, _TWO, _QUARTER = np.float32(1.0), np.float32(2.0), np.float32(0.25)
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
    second = _TWO if as_float(eight) * r >= np.float32(4.0) else _ONE
    third = _TWO if (as_float(four) * r) * (_ONE / second) >= _TWO else _ONE
    both = second * third
    return r * (np.float32(4.0) / both), both * (s * _QUARTER)


@part
def _stored(word: Any, before: Any, behind: Any, e: Any, noise: Any, how: Any) -> Any:
    y = as_bits(min(as_float(magnitude(word)) * before, _ELEMENT_LARGEST))
    k = rounded_to(y, _INTEGER_LOWEST, _INTEGER_MANTISSA, noise, how)
    return signed(rounded(as_bits(min(k * behind, e.dtype_largest)), word), word)


@implements(rows, e=Numbers)
def _rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any) -> Any:
    batch, row, column = tile
    width = np.uint64(min(g.columns, g.n - column))
    block, size = np.uint64(_BLOCK), np.uint64(_FOUR)
    plain, fours = True, np.empty(_FOURS, np.int32)
    for i in range(row, min(row + g.rows, g.m)):
        source = np.uint64(batch * g.x_batch + i * g.x_m + column)
        target = np.uint64(batch * g.out_batch + i * g.out_m + column)
        if is_stochastic(how):
            fill(words, batch * g.number_batch + i * g.number_m + column * g.number_n, g.number_n, width, key)
        for first in range(np.uint64(0), width, block):
            end = min(first + block, width)
            amax = np.int32(0)
            for f in range(_FOURS):
                fours[f] = 0
                start = first + np.uint64(f) * size
                for j in range(start, min(start + size, end)):
                    fours[f] = max(fours[f], magnitude(x[source + j]))
                amax = max(amax, fours[f])
            plain &= amax < np.int32(INFINITY)
            s, r = _scale(amax)
            for f in range(_FOURS):
                before, behind = _of_four(max(fours[f], fours[f ^ 1]), fours[f], s, r)
                start = first + np.uint64(f) * size
                for j in range(start, min(start + size, end)):
                    out[target + j] = _stored(x[source + j], before, behind, e, words[j], how)
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
            for c in range(width):
                own[c] = 0
            for i in range(top + f * _FOUR, min(top + f * _FOUR + _FOUR, stop)):
                source = np.uint64(batch * g.x_batch + i * g.x_m + column)
                for c in range(width):
                    own[c] = max(own[c], unsigned(x[source + c]))
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
