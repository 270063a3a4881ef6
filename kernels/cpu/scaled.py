"""Blocks whose elements are multiplied by a number before they are rounded and by another one behind it.

FP8 (formats/fp8.py), and MX with headroom (formats/mx.py); each operation rounded in fp32 as there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, prepare, quantize, stored
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements, part
from quantctl.kernels.cpu.mx import FIELD, FIRST_PLAIN, LAST_PLAIN, LOWEST_SCALE
from quantctl.kernels.cpu.rounding import rounded_to
from quantctl.kernels.cpu.words import INFINITY, rounded, signed, unsigned
from quantctl.kernels.formats import mx
from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

_BLOCK = np.uint64(mx.BLOCK)
_largest = LARGEST[mx.BLOCK]
_INVERSE = np.int32(2 * BIAS)
"""Less the exponent field of a power of two: that of its inverse."""


class Elements(NamedTuple):
    """An element type, and the dtype's largest number."""

    lowest: Any
    """Bits of the smallest normal number."""
    mantissa: Any
    """Its mantissa bits in the exponent field."""
    largest: Any
    dtype_largest: Any


def elements_of(element: Element, dtype_largest: float) -> Elements:
    return Elements(
        np.int32((BIAS + element.min_exponent) << MANTISSA_BITS),
        np.int32(element.mantissa_bits << MANTISSA_BITS),
        np.float32(element.largest),
        np.float32(dtype_largest),
    )


class FP8Numbers(NamedTuple):
    """Blocks of any size."""

    of: Elements
    block: Any
    mask: Any
    """Of the scale's bits, those that it keeps: its exponent where it is to be a power of two."""


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
    return as_bits(min(rounded_to(y, of.lowest, of.mantissa, word, how) * second, of.dtype_largest))


@implements(block_of, e=FP8Numbers)
def _block_of(e: Any) -> Any:
    return e.block


@implements(block_of, e=MXRoomNumbers)
def _room_block_of(e: Any) -> Any:
    return _BLOCK


@implements(largest, e=FP8Numbers)
def _largest_of_block(words: Any, start: Any, size: Any, e: Any) -> Any:
    raw = unsigned(words[start])
    for j in range(size):
        raw = max(raw, unsigned(words[start + j]))
    return raw


@implements(largest, e=MXRoomNumbers)
def _room_largest(words: Any, start: Any, size: Any, e: Any) -> Any:
    return _largest(words, start)


@implements(prepare, e=FP8Numbers)
def _prepare(amax: Any, e: Any) -> Any:
    s = as_float(np.int32(as_bits(e.of.largest / as_float(amax)) & e.mask))
    s = np.float32(1.0) if amax == np.int32(0) else s
    return s, np.float32(1.0) / s


@implements(prepare, e=MXRoomNumbers)
def _room_prepare(amax: Any, e: Any) -> Any:
    scale = max(np.int32(((amax + e.rule) >> FIELD) - e.max_exponent), LOWEST_SCALE)
    before = e.before * as_float(np.int32((_INVERSE - scale) << FIELD))
    return before, e.behind * as_float(np.int32(scale << FIELD))


@implements(is_plain, e=[FP8Numbers, MXRoomNumbers])
def _is_plain(amax: Any, e: Any) -> Any:
    return (amax >= FIRST_PLAIN and amax < LAST_PLAIN) or amax == np.int32(0)


@implements(quantize, e=[FP8Numbers, MXRoomNumbers])
def _quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    return _through(bits, first, second, e.of, word, how)


@implements(quantize, e=WholeNumbers)
def _whole_quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    return _through(bits, e.first, e.second, e.of, word, how)


@implements(stored, e=[FP8Numbers, MXRoomNumbers, WholeNumbers])
def _stored(bits: Any, word: Any, e: Any) -> Any:
    return signed(rounded(bits, word), word)
