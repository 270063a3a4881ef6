"""Rounding to an element's values on fp32 magnitudes, the three rules of formats' rounding.py in one place.

A number with the exponent field E is rounded to a multiple of the step 2^(max(E, lowest) - mantissa_bits), where
`lowest` is the exponent of the smallest normal element. Adding and taking off the power of two whose last place is
that step rounds to the nearest, ties to even, as every fp32 addition does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quantctl.kernels.cpu.compiled import INFINITY, as_bits, as_float, part

NEAREST, AWAY, STOCHASTIC = map(np.int32, range(3))
RULES = {"nearest": NEAREST, "away": AWAY, "stochastic": STOCHASTIC}


@part
def nearest(bits: Any, lowest: Any, above: Any) -> Any:
    """fp32 magnitude. lowest: fp32 bits of the smallest normal; above: 23 - mantissa_bits in the exponent field."""
    last_place = as_float(np.int32(max(np.int32(bits & np.int32(INFINITY)), lowest) + above))
    return (as_float(bits) + last_place) - last_place


@part
def by_fraction(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    """fp32 magnitude, half away from zero or up where the 24-bit noise `word` is below the fraction.

    mantissa: mantissa_bits in the exponent field.
    """
    step = np.int32(max(np.int32(bits & np.int32(INFINITY)), lowest) - mantissa)
    y = as_float(bits) * as_float(np.int32(np.int32(254 << 23) - step))
    whole = np.float32(np.int32(y))
    fraction = y - whole
    threshold = np.float32(0.5) if how == AWAY else (np.float32(word) + np.float32(1.0)) * np.float32(2.0**-24)
    up = np.float32(1.0) if fraction >= threshold else np.float32(0.0)
    return (whole + up) * as_float(step)


@part
def wide(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    """The same in fp64 for magnitudes near the ends of fp32's range: no subnormal number is an operand.

    lowest and mantissa are exponents here, not fields. Returns fp64.
    """
    value = np.float64(bits) * 2.0**-149 if bits < np.int32(1 << 23) else np.float64(as_float(bits))
    exponent = math.frexp(value)[1] - 1
    step = 2.0 ** np.float64(max(exponent, lowest) - mantissa)
    y = value / step
    whole = np.floor(y)
    fraction = y - whole
    if how == NEAREST:
        up = fraction > 0.5 or (fraction == 0.5 and whole % 2.0 == 1.0)
    elif how == AWAY:
        up = fraction >= 0.5
    else:
        up = fraction >= (np.float64(word) + 1.0) * 2.0**-24
    return (whole + (1.0 if up else 0.0)) * step


@part
def bits_of(value: Any) -> Any:
    """fp32 bits of an fp64 magnitude that fp32 holds, without a subnormal fp32 operation."""
    return np.int32(value * 2.0**149) if value < 2.0**-126 else as_bits(np.float32(value))
