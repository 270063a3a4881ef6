"""Blocks of the MX formats on fp32 magnitudes; formats/mx.py has the formulas."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, prepare, quantize, stored
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements
from quantctl.kernels.cpu.rounding import rounded_to
from quantctl.kernels.cpu.words import signed
from quantctl.kernels.formats import mx
from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

FIRST_PLAIN, LAST_PLAIN = np.int32((BIAS - 60) << 23), np.int32((BIAS + 100) << 23)
"""Bits of the amax of blocks in which no operand of the fp32 arithmetic is subnormal or overflows."""
LOWEST_SCALE = np.int32(40)
"""Biased: below that of any such block, and high enough for all arithmetic with zeros."""
FIELD = np.int32(MANTISSA_BITS)
_BLOCK = np.uint64(mx.BLOCK)
_largest = LARGEST[mx.BLOCK]


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
        dtype_largest=np.float32(dtype_largest),
    )


@implements(block_of, e=MXNumbers)
def _block_of(e: Any) -> Any:
    return _BLOCK


@implements(largest, e=MXNumbers)
def _largest_of_block(words: Any, start: Any, size: Any, e: Any) -> Any:
    return _largest(words, start)


@implements(is_plain, e=MXNumbers)
def _is_plain(amax: Any, e: Any) -> Any:
    return (amax >= FIRST_PLAIN and amax < LAST_PLAIN) or amax == np.int32(0)


@implements(prepare, e=MXNumbers)
def _prepare(amax: Any, e: Any) -> Any:
    """The block's smallest normal number, and its largest."""
    scale = np.int32(((amax + e.rule) >> FIELD) - e.max_exponent)  # biased
    scale = max(scale, LOWEST_SCALE)
    lowest = as_float(np.int32((scale + e.min_exponent) << FIELD))
    return lowest, min(e.largest * as_float(np.int32(scale << FIELD)), e.dtype_largest)


@implements(quantize, e=MXNumbers)
def _quantize(bits: Any, lowest: Any, limit: Any, e: Any, word: Any, how: Any) -> Any:
    value = rounded_to(bits, as_bits(lowest), np.int32(e.mantissa_bits << FIELD), word, how)
    return min(as_bits(value), as_bits(limit))  # magnitudes are ordered as their bits


@implements(stored, e=MXNumbers)
def _stored(bits: Any, word: Any, e: Any) -> Any:
    return signed(bits, word)
