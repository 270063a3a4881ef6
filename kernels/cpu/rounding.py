"""Rounding to an element's values on fp32 magnitudes, the three rules of formats' rounding.py in one place.

A number with the exponent field E is rounded to a multiple of the step 2^(max(E, lowest) - mantissa_bits), where
`lowest` is the exponent of the smallest normal element. Adding and taking off the power of two whose last place is
that step rounds to the nearest, ties to even, as every fp32 addition does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.compiled import as_float, implements, part
from quantctl.kernels.cpu.words import INFINITY
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

_INVERSE = np.int32(2 * BIAS << MANTISSA_BITS)
"""Less the bits of a power of two: those of its inverse."""


class Nearest(NamedTuple):
    """Ties to even, or away from zero where that is the format's own rule."""


class ByFraction(NamedTuple):
    """Half away from zero, or up where the 24-bit noise of the element is below the fraction."""

    stochastic: Any


RULES: dict[str, Nearest | ByFraction] = {
    "nearest": Nearest(),
    "away": ByFraction(False),
    "stochastic": ByFraction(True),
}
"""Kinds of their own to the compiler: the loop that has to be fast has no other rounding in it."""


def is_stochastic(how: Any) -> Any:
    """Whether `how` takes noise."""


@implements(is_stochastic, how=Nearest)
def _never(how: Any) -> Any:
    return False


@implements(is_stochastic, how=ByFraction)
def _sometimes(how: Any) -> Any:
    return how.stochastic


@part
def nearest(bits: Any, lowest: Any, mantissa: Any) -> Any:
    """fp32 magnitude. lowest: bits of the smallest normal; mantissa: mantissa_bits in the exponent field."""
    above = np.int32(np.int32(MANTISSA_BITS << MANTISSA_BITS) - mantissa)
    last_place = as_float(np.int32(max(np.int32(bits & np.int32(INFINITY)), lowest) + above))
    return (as_float(bits) + last_place) - last_place


@part
def by_fraction(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    """The same by the other rule; word: the element's noise."""
    step = np.int32(max(np.int32(bits & np.int32(INFINITY)), lowest) - mantissa)
    y = as_float(bits) * as_float(np.int32(_INVERSE - step))
    whole = np.float32(np.int32(y))
    chance = (np.float32(word) + np.float32(1.0)) * np.float32(2.0**-24)
    threshold = chance if how.stochastic else np.float32(0.5)
    up = np.float32(1.0) if y - whole >= threshold else np.float32(0.0)
    return (whole + up) * as_float(step)


def rounded_to(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    """By whichever rule `how` is."""


@implements(rounded_to, how=Nearest)
def _to_nearest(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    return nearest(bits, lowest, mantissa)


@implements(rounded_to, how=ByFraction)
def _by_fraction(bits: Any, lowest: Any, mantissa: Any, word: Any, how: Any) -> Any:
    return by_fraction(bits, lowest, mantissa, word, how)
