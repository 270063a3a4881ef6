"""HiFloat8 on fp32 magnitudes, in integers; formats/hifp8.py has the format. Its elements have no blocks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import quantize, stored
from quantctl.kernels.cpu.compiled import as_bits, as_float, implements, part
from quantctl.kernels.cpu.rounding import ByFraction, Nearest, by_fraction
from quantctl.kernels.cpu.words import INFINITY, rounded, signed, unsigned
from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

FIELD = np.int32(MANTISSA_BITS)
_LARGEST, _OVERFLOW = (np.int32(np.float32(value).view(np.int32)) for value in (hifp8.LARGEST, hifp8.OVERFLOW))
_SMALLEST = np.int32((BIAS + hifp8.MIN_EXPONENT) << MANTISSA_BITS)
_TINY = np.int32((BIAS + hifp8.MIN_EXPONENT - 1) << MANTISSA_BITS)
_FULL, _MIDDLE, _LAST = (np.int32(exponent) for exponent, _ in hifp8.MANTISSA_BITS_BY_EXPONENT)
_HALF_FULL, _HALF_MIDDLE, _HALF_LAST = (
    np.int32(1 << (MANTISSA_BITS - 1 - bits)) for _, bits in hifp8.MANTISSA_BITS_BY_EXPONENT
)
_HALF_NONE = np.int32(1 << (MANTISSA_BITS - 1))


class Scaled(NamedTuple):
    """The tensor scale, 1 where there is none, and the dtype's largest number."""

    exponent: Any
    """log2 of the scale as an exponent field."""
    largest: Any
    """As fp32 bits."""


def exponent_of(amax: np.float32) -> int:
    """log2 of the scale that scale=tensor gives a tensor of that largest finite magnitude."""
    return math.frexp(amax)[1] - 1 - hifp8.TENSOR_TARGET


def numbers(exponent: int, dtype_largest: float) -> Scaled:
    """exponent: log2 of the scale."""
    return Scaled(np.int32(exponent * (1 << MANTISSA_BITS)), np.float32(dtype_largest).view(np.int32))


class Divided(NamedTuple):
    """scale=fp32."""

    scale: Any
    largest: Any
    """The dtype's, as fp32."""


def divided(amax: np.float32, target: str | None, dtype_largest: float) -> Divided:
    """amax: the largest finite magnitude of the tensor, which becomes `target`."""
    scale = amax / np.float32(target) if amax else np.float32(1.0)
    return Divided(scale, np.float32(dtype_largest))


def near(bits: Any, word: Any, how: Any) -> Any:
    """A magnitude rounded to HiFloat8's steps, fp32 bits; not yet limited, and NaN is not looked at."""


@implements(near, how=Nearest)
def _away(bits: Any, word: Any, how: Any) -> Any:
    exponent = np.int32((bits >> FIELD) - np.int32(BIAS))
    size = np.int32(abs(exponent))
    # half of the step; below the normal numbers there are powers of two, above the largest nothing is kept
    half = _HALF_FULL if size <= _FULL else _HALF_MIDDLE
    half = half if size <= _MIDDLE else _HALF_LAST
    half = half if exponent >= np.int32(-_LAST) else _HALF_NONE
    value = max(np.int32((bits + half) & np.int32(-np.int32(half + half))), _SMALLEST)
    return np.int32(0) if bits < _TINY else value


@implements(near, how=ByFraction)
def _by_chance(bits: Any, word: Any, how: Any) -> Any:
    exponent = np.int32((bits >> FIELD) - np.int32(BIAS))
    size = np.int32(abs(exponent))
    mantissa = np.int32(0) if exponent < np.int32(-_LAST) else np.int32(1)
    mantissa = np.int32(2) if size <= _MIDDLE else mantissa
    mantissa = np.int32(3) if size <= _FULL else mantissa
    # whatever is no normal fp32 number is 0
    normal = np.int32(0) if bits < np.int32(1 << 23) else bits
    return as_bits(by_fraction(normal, _SMALLEST, np.int32(mantissa << FIELD), word, how))


@part
def element(bits: Any, word: Any, how: Any) -> Any:
    """A magnitude rounded to HiFloat8, fp32 bits; NaN stays."""
    value = min(near(bits, word, how), _LARGEST)
    value = np.int32(INFINITY) if bits >= _OVERFLOW else value
    return bits if bits > np.int32(INFINITY) else value


@implements(quantize, e=Scaled)
def _quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    # what is no normal number under the scale, and what was none before, is so small that it becomes 0
    under = max(np.int32(bits - e.exponent), np.int32(0))
    under = np.int32(0) if bits < np.int32(1 << 23) else under
    value = element(bits if bits >= np.int32(INFINITY) else under, word, how)
    back = min(np.int32(value + e.exponent), e.largest)
    back = np.int32(0) if value == np.int32(0) else back
    return value if value >= np.int32(INFINITY) else back


@implements(quantize, e=Divided)
def _divided_quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    value = element(bits if bits >= np.int32(INFINITY) else as_bits(as_float(bits) / e.scale), word, how)
    return value if value >= np.int32(INFINITY) else as_bits(min(as_float(value) * e.scale, e.largest))


@implements(stored, e=[Scaled, Divided])
def _stored(bits: Any, word: Any, e: Any) -> Any:
    return signed(rounded(bits, word), word) if bits != np.int32(0) else signed(bits, unsigned(word))
