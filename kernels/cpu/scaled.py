"""Blocks whose elements are multiplied by a number before they are rounded and by another one behind it.

FP8 and INT8 (formats/fp8.py, int8.py), and MX with headroom (formats/mx.py); each operation rounded in fp32 as there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, prepare, quantize, stored
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements, part
from quantctl.kernels.cpu.largest import largest_from
from quantctl.kernels.cpu.mx import FIELD, FIRST_PLAIN, LAST_PLAIN, LOWEST_SCALE
from quantctl.kernels.cpu.rounding import nearest, rounded_to
from quantctl.kernels.cpu.words import INFINITY, rounded, signed, unsigned
from quantctl.kernels.formats import int8 as int8_format
from quantctl.kernels.formats import mx
from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS
from quantctl.spec import FormatSpec

_BLOCK = np.uint64(mx.BLOCK)
_largest = LARGEST[mx.BLOCK]
NO_SIGN = np.int32(-1)
"""In the place of the bits of a 0 that has none."""
_INVERSE = np.int32(2 * BIAS)
"""Less the exponent field of a power of two: that of its inverse."""


class Elements(NamedTuple):
    """An element type, and the dtype's largest number. Whole numbers have the step of 2^7 with seven mantissa bits."""

    lowest: Any
    """Bits of the smallest normal number."""
    mantissa: Any
    """Its mantissa bits in the exponent field."""
    largest: Any
    dtype_largest: Any
    one_zero: Any
    """Whether what is rounded to 0 has no sign."""


def elements_of(element: Element, dtype_largest: float) -> Elements:
    lowest, mantissa = np.int32((BIAS + element.min_exponent) << MANTISSA_BITS), element.mantissa_bits << MANTISSA_BITS
    return Elements(lowest, np.int32(mantissa), np.float32(element.largest), np.float32(dtype_largest), False)


def whole_numbers(dtype_largest: float) -> Elements:
    field = BIAS.bit_length()
    lowest, mantissa = np.int32((BIAS + field) << MANTISSA_BITS), np.int32(field << MANTISSA_BITS)
    return Elements(lowest, mantissa, np.float32(int8_format.LARGEST), np.float32(dtype_largest), True)


class FP8Numbers(NamedTuple):
    """Blocks of any size."""

    of: Elements
    block: Any
    mask: Any
    """Of the scale's bits, those that it keeps: its exponent where it is to be a power of two."""


class INT8Numbers(NamedTuple):
    """Blocks of any size."""

    of: Elements
    block: Any
    as_kept: Any
    """Whether elements are divided by the scale as it is kept."""
    kept_lowest: Any
    """The dtype that the scale is kept in: bits of its smallest normal number,"""
    kept_mantissa: Any
    """its mantissa bits in the exponent field,"""
    kept_largest: Any
    """and its largest number."""


class WholeNumbers(NamedTuple):
    """One block for all of a tensor, whose two numbers are known."""

    of: Elements
    first: Any
    second: Any


class MXRoomNumbers(NamedTuple):
    """MX with headroom."""

    of: Elements
    rule: Any
    """As in mx.py."""
    max_exponent: Any
    before: Any
    """The headroom."""
    behind: Any
    """Its inverse."""


def fp8(element: Element, dtype_largest: float, block: int, *, powers: bool) -> FP8Numbers:
    """powers: whether scales are powers of two."""
    return FP8Numbers(elements_of(element, dtype_largest), np.uint64(block), np.int32(INFINITY if powers else -1))


def int8(dtype: torch.dtype, block: int, *, in_squares: bool) -> INT8Numbers:
    kept = torch.finfo(torch.float16 if in_squares else dtype)
    return INT8Numbers(
        whole_numbers(torch.finfo(dtype).max),
        np.uint64(block),
        not in_squares,
        np.float32(kept.smallest_normal).view(np.int32),
        np.int32(-math.frexp(kept.eps)[1] + 1 << MANTISSA_BITS),
        np.float32(kept.max),
    )


def int8_tensor(amax: np.float32, spec: FormatSpec, dtype: torch.dtype) -> WholeNumbers:
    scale, kept = (np.float32(t.item()) for t in int8_format.scales_of(torch.tensor(amax, device="cpu"), spec, dtype))
    one = np.float32(1.0)
    first = min(one / scale, np.finfo(np.float32).max) if scale else scale
    return WholeNumbers(whole_numbers(torch.finfo(dtype).max), first, kept)


def whole(amax: np.float32, element: Element, dtype_largest: float, *, powers: bool) -> WholeNumbers:
    of, one = elements_of(element, dtype_largest), np.float32(1.0)
    scale = of.largest / amax if amax else one
    scale = (scale.view(np.int32) & np.int32(INFINITY)).view(np.float32) if powers else scale
    return WholeNumbers(of, scale, one / scale)


def mx_room(element: Element, rule: str, headroom: float, dtype_largest: float) -> MXRoomNumbers:
    return MXRoomNumbers(
        elements_of(element, dtype_largest),
        np.int32(mx.SCALE_RULES[rule](element)),
        np.int32(element.max_exponent),
        np.float32(headroom),
        np.float32(1 / headroom),
    )


@part
def _through(bits: Any, first: Any, second: Any, of: Any, word: Any, how: Any) -> Any:
    y = as_bits(min(as_float(bits) * first, of.largest))
    q = rounded_to(y, of.lowest, of.mantissa, word, how)
    value = as_bits(min(q * second, of.dtype_largest))
    return NO_SIGN if of.one_zero and q == np.float32(0.0) else value


@implements(block_of, e=[FP8Numbers, INT8Numbers])
def _block_of(e: Any) -> Any:
    return e.block


@implements(block_of, e=MXRoomNumbers)
def _room_block_of(e: Any) -> Any:
    return _BLOCK


@implements(largest, e=[FP8Numbers, INT8Numbers])
def _largest_of_block(words: Any, start: Any, size: Any, e: Any) -> Any:
    return largest_from(words, start, size)


@implements(largest, e=MXRoomNumbers)
def _room_largest(words: Any, start: Any, size: Any, e: Any) -> Any:
    return _largest(words, start)


@implements(prepare, e=FP8Numbers)
def _prepare(amax: Any, e: Any) -> Any:
    s = as_float(np.int32(as_bits(e.of.largest / as_float(amax)) & e.mask))
    s = np.float32(1.0) if amax == np.int32(0) else s
    return s, np.float32(1.0) / s


@implements(prepare, e=INT8Numbers)
def _int8_prepare(amax: Any, e: Any) -> Any:
    s = as_float(amax) / e.of.largest
    # fp32 keeps all of it
    kept = (
        s
        if e.kept_mantissa == np.int32(MANTISSA_BITS << MANTISSA_BITS)
        else nearest(as_bits(s), e.kept_lowest, e.kept_mantissa)
    )
    kept = min(kept, e.kept_largest)
    scale = kept if e.as_kept else s
    return np.float32(1.0) / scale if scale > np.float32(0.0) else np.float32(0.0), kept


@implements(prepare, e=MXRoomNumbers)
def _room_prepare(amax: Any, e: Any) -> Any:
    scale = max(np.int32(((amax + e.rule) >> FIELD) - e.max_exponent), LOWEST_SCALE)
    before = e.before * as_float(np.int32((_INVERSE - scale) << FIELD))
    return before, e.behind * as_float(np.int32(scale << FIELD))


@implements(is_plain, e=[FP8Numbers, INT8Numbers, MXRoomNumbers])
def _is_plain(amax: Any, e: Any) -> Any:
    return (amax >= FIRST_PLAIN and amax < LAST_PLAIN) or amax == np.int32(0)


@implements(quantize, e=[FP8Numbers, INT8Numbers, MXRoomNumbers])
def _quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    return _through(bits, first, second, e.of, word, how)


@implements(quantize, e=WholeNumbers)
def _whole_quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    return _through(bits, e.first, e.second, e.of, word, how)


@implements(stored, e=[FP8Numbers, MXRoomNumbers])
def _stored(bits: Any, word: Any, e: Any) -> Any:
    return signed(rounded(bits, word), word)


@implements(stored, e=[INT8Numbers, WholeNumbers])
def _stored_with_one_zero(bits: Any, word: Any, e: Any) -> Any:
    near = rounded(max(bits, np.int32(0)), word)
    return signed(near, word) if bits >= np.int32(0) else signed(near, unsigned(word))
