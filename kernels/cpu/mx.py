"""Blocks of the MX formats on fp32 magnitudes; formats/mx.py has the formulas."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from quantctl.kernels.cpu.blocks import is_plain, is_tuple_of, prepare, quantize, quantize_wide, stored
from quantctl.kernels.cpu.compiled import INFINITY, OVERLOAD, as_bits, as_float, signed
from quantctl.kernels.cpu.rounding import NEAREST, bits_of, by_fraction, nearest, wide
from quantctl.kernels.formats import mx
from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

FIRST_PLAIN, LAST_PLAIN = np.int32((BIAS - 60) << 23), np.int32((BIAS + 100) << 23)
"""Bits of the amax of blocks in which no operand of the fp32 arithmetic is subnormal or overflows."""
FIELD = np.int32(MANTISSA_BITS)


class MXNumbers(NamedTuple):
    """What an element type and a scale rule are to the kernels."""

    rule: Any
    """Added to the bits of amax: the exponent field then holds that of the scale plus max_exponent."""
    max_exponent: Any
    min_exponent: Any
    mantissa_bits: Any
    largest: Any
    dtype_largest: Any


def numbers(element: Element, scale: str, dtype_largest: float) -> MXNumbers:
    return MXNumbers(
        rule=np.int32(mx.SCALE_RULES[scale](element)),
        max_exponent=np.int32(element.max_exponent),
        min_exponent=np.int32(element.min_exponent),
        mantissa_bits=np.int32(element.mantissa_bits),
        largest=np.float32(element.largest),
        dtype_largest=np.float64(dtype_largest),
    )


def _is_ours(e: Any) -> bool:
    return is_tuple_of(MXNumbers, e)


@overload(is_plain, jit_options=OVERLOAD)
def _is_plain(amax: Any, e: Any) -> Any:
    if not _is_ours(e):
        return None

    def plain(amax: Any, e: Any) -> Any:
        return amax >= FIRST_PLAIN and amax < LAST_PLAIN

    return plain


@overload(prepare, jit_options=OVERLOAD)
def _prepare(amax: Any, e: Any) -> Any:
    """The block's smallest normal number, and its largest."""
    if not _is_ours(e):
        return None

    def block(amax: Any, e: Any) -> Any:
        scale = np.int32(((amax + e.rule) >> FIELD) - e.max_exponent)  # biased
        scale = np.int32(min(max(scale, np.int32(0)), np.int32(254)))
        lowest = as_float(np.int32((scale + e.min_exponent) << FIELD))
        return lowest, e.largest * as_float(np.int32(scale << FIELD))

    return block


@overload(quantize, jit_options=OVERLOAD)
def _quantize(bits: Any, lowest: Any, limit: Any, e: Any, word: Any, how: Any) -> Any:
    if not _is_ours(e):
        return None

    def plain(bits: Any, lowest: Any, limit: Any, e: Any, word: Any, how: Any) -> Any:
        if how == NEAREST:
            value = nearest(bits, as_bits(lowest), np.int32((FIELD - e.mantissa_bits) << FIELD))
        else:
            value = by_fraction(bits, as_bits(lowest), np.int32(e.mantissa_bits << FIELD), word, how)
        return as_bits(min(value, limit, np.float32(e.dtype_largest)))

    return plain


@overload(quantize_wide, jit_options=OVERLOAD)
def _quantize_wide(bits: Any, amax: Any, e: Any, word: Any, how: Any) -> Any:
    if not _is_ours(e):
        return None

    def any_block(bits: Any, amax: Any, e: Any, word: Any, how: Any) -> Any:
        if amax >= np.int32(INFINITY):
            return np.int32(0x7FC00000)
        if bits == np.int32(0):
            return bits
        scale = np.int32(((amax + e.rule) >> FIELD) - np.int32(BIAS) - e.max_exponent)
        scale = np.int32(min(max(scale, np.int32(-BIAS)), np.int32(BIAS)))
        value = wide(bits, np.int32(scale + e.min_exponent), e.mantissa_bits, word, how)
        return bits_of(min(value, np.float64(e.largest) * 2.0 ** np.float64(scale), e.dtype_largest))

    return any_block


@overload(stored, jit_options=OVERLOAD)
def _stored(bits: Any, word: Any, e: Any) -> Any:
    if not _is_ours(e):
        return None

    def exact(bits: Any, word: Any, e: Any) -> Any:
        return signed(bits, word)

    return exact
