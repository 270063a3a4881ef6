"""HiFloat8 on fp32 magnitudes, in integers; formats/hifp8.py has the format. Its elements have no blocks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from quantctl.kernels.cpu.blocks import is_plain, is_tuple_of, prepare, quantize, quantize_wide, stored
from quantctl.kernels.cpu.compiled import INFINITY, OVERLOAD, as_bits, as_float, part, rounded, signed
from quantctl.kernels.cpu.rounding import NEAREST, bits_of
from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

FIELD = np.int32(MANTISSA_BITS)
_LARGEST, _OVERFLOW = (np.int32(np.float32(value).view(np.int32)) for value in (hifp8.LARGEST, hifp8.OVERFLOW))
_SMALLEST = np.int32((BIAS + hifp8.MIN_EXPONENT) << MANTISSA_BITS)
_TINY = np.int32((BIAS + hifp8.MIN_EXPONENT - 1) << MANTISSA_BITS)
_FULL, _MIDDLE, _LAST = (np.int32(exponent) for exponent, _ in hifp8.MANTISSA_BITS_BY_EXPONENT)

_PLAIN_SCALE = -100
"""Below this exponent of the tensor scale results come near fp32's subnormal numbers."""


class HiFloat8Numbers(NamedTuple):
    """The tensor scale and the dtype's largest number."""

    exponent: Any
    """log2 of the scale as an exponent field."""
    subnormal: Any
    """What 2^-149 is under the scale, fp32; 0 where all subnormal numbers become 0."""
    scale: Any
    """fp64."""
    is_plain: Any
    dtype_largest: Any


def numbers(scale: float, dtype_largest: float) -> HiFloat8Numbers:
    exponent = math.frexp(scale)[1] - 1
    subnormal = 2.0 ** (-149 - exponent) if exponent < _PLAIN_SCALE else 0.0
    return HiFloat8Numbers(
        np.int32(exponent * (1 << MANTISSA_BITS)),
        np.float32(subnormal),
        np.float64(scale),
        exponent >= _PLAIN_SCALE,
        np.float32(dtype_largest),
    )


@part
def element(bits: Any, word: Any, how: Any) -> Any:
    """A magnitude rounded to HiFloat8, fp32 bits; NaN stays. Whatever is no normal fp32 number is 0.

    how: NEAREST (half away from zero is the format's) or STOCHASTIC.
    """
    exponent = np.int32((bits >> FIELD) - np.int32(BIAS))
    size = np.int32(abs(exponent))
    # below the normal numbers there are powers of two; above the largest one nothing is kept
    mantissa = np.int32(0) if exponent < np.int32(-_LAST) else np.int32(1)
    mantissa = np.int32(2) if size <= _MIDDLE else mantissa
    mantissa = np.int32(3) if size <= _FULL else mantissa
    if how == NEAREST:
        half = np.int32(np.int32(1) << np.int32(FIELD - np.int32(1) - mantissa))
        near = np.int32((bits + half) & np.int32(-np.int32(half + half)))
        near = _SMALLEST if bits < _SMALLEST else near
        near = np.int32(0) if bits < _TINY else near
    else:
        normal = np.int32(0) if bits < np.int32(1 << 23) else bits
        step = max(np.int32((normal & np.int32(INFINITY)) - np.int32(mantissa << FIELD)), _SMALLEST)
        y = as_float(normal) * as_float(np.int32(np.int32(254 << 23) - step))
        whole = np.float32(np.int32(y))
        threshold = (np.float32(word) + np.float32(1.0)) * np.float32(2.0**-24)
        up = np.float32(1.0) if y - whole >= threshold else np.float32(0.0)
        near = as_bits((whole + up) * as_float(step))
    near = min(near, _LARGEST)
    near = np.int32(INFINITY) if bits >= _OVERFLOW else near
    return bits if bits > np.int32(INFINITY) else near


@part
def under(bits: Any, e: Any) -> Any:
    """bits / scale; what is no normal number then is so small that it becomes 0."""
    scaled = max(np.int32(bits - e.exponent), np.int32(0))
    scaled = as_bits(np.float32(bits) * e.subnormal) if bits < np.int32(1 << 23) else scaled
    return bits if bits >= np.int32(INFINITY) else scaled


def _is_ours(e: Any) -> bool:
    return is_tuple_of(HiFloat8Numbers, e)


@overload(is_plain, jit_options=OVERLOAD)
def _is_plain(amax: Any, e: Any) -> Any:
    if not _is_ours(e):
        return None

    def plain(amax: Any, e: Any) -> Any:
        return e.is_plain

    return plain


@overload(prepare, jit_options=OVERLOAD)
def _prepare(amax: Any, e: Any) -> Any:
    if not _is_ours(e):
        return None

    def nothing(amax: Any, e: Any) -> Any:
        return np.float32(0.0), np.float32(0.0)

    return nothing


@overload(quantize, jit_options=OVERLOAD)
def _quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    if not _is_ours(e):
        return None

    def plain(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
        near = element(under(bits, e), word, how)
        back = min(np.int32(near + e.exponent), np.int32(INFINITY))
        back = as_bits(min(as_float(back), e.dtype_largest))
        back = np.int32(0) if near == np.int32(0) else back
        return near if near >= np.int32(INFINITY) else back

    return plain


@overload(quantize_wide, jit_options=OVERLOAD)
def _quantize_wide(bits: Any, amax: Any, e: Any, word: Any, how: Any) -> Any:
    if not _is_ours(e):
        return None

    def small_scale(bits: Any, amax: Any, e: Any, word: Any, how: Any) -> Any:
        near = element(under(bits, e), word, how)
        return near if near >= np.int32(INFINITY) else bits_of(np.float64(as_float(near)) * e.scale)

    return small_scale


@overload(stored, jit_options=OVERLOAD)
def _stored(bits: Any, word: Any, e: Any) -> Any:
    if not _is_ours(e):
        return None

    def one_zero(bits: Any, word: Any, e: Any) -> Any:
        return signed(rounded(bits, word), word) if bits != np.int32(0) else signed(bits, word ^ word)

    return one_zero
