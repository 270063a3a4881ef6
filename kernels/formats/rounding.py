"""Bits and rounding of fp32 values, shared by all formats.

A format decides the step, a power of two, of each value; the rounding rules are the same for all of them and exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantctl.kernels.tables import has_values

EXPONENT_MASK = 0x7F800000
MANTISSA_BITS = 23
MANTISSA_MASK = 0x7FFFFF
BIAS = 127
SIGN = -0x80000000


def binade(x: Tensor) -> Tensor:
    """2^floor(log2 |x|) of fp32 `x`, taken from the bits: 0 for subnormals and zero, Inf for Inf and NaN.

    A logarithm would be wrong next to powers of two: log2 rounds their predecessors up.
    """
    return (x.view(torch.int32) & EXPONENT_MASK).view(torch.float32)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as fp32 from int32 exponents in -127..127, built from the bits (2^-127 is a subnormal)."""
    return ((exponent + BIAS) << MANTISSA_BITS).clamp_min(1 << (MANTISSA_BITS - 1)).view(torch.float32)


LOW, LOWER = -60, 64
"""Products with a scale below 2^LOW are computed 2^LOWER above their place, where none of them is subnormal."""
_UNITS = 149
"""A subnormal fp32's bits are an integer: so many 2^-149."""


def lowering(scale: Tensor) -> tuple[Tensor, Tensor]:
    """`by`, int32, and scale * 2^by, fp32 of scale's shape: LOWER where the scale is below 2^LOW, else 0."""
    is_low = scale < 2.0**LOW
    return is_low.int() * LOWER, torch.where(is_low, scale * 2.0**LOWER, scale)


def known_zero(x: Tensor) -> bool:
    """Whether x is known to be 0, or False: only where looking at it costs less than computing with it."""
    known = x.device.type == "cpu" and not torch.compiler.is_compiling() and has_values(x)
    return known and not x.any()


def lower(product: Tensor, by: Tensor, dtype: torch.dtype) -> Tensor:
    """product * 2^-by in `dtype`, limited to its largest number; right where subnormals are flushed, too.

    product: fp32, 0 or at least 2^-126, and below 2^67 where by, int32 that broadcasts against it, is LOWER and not 0.
    A result below 2^-126 is made as an integer, rounded half to even. NaN stays. `product` is overwritten.
    """
    largest = torch.finfo(dtype).max
    product.clamp_(-largest, largest)
    if dtype == torch.float16 or known_zero(by):  # fp16 has no numbers for which a scale is low
        return product.to(dtype)
    is_nan = product.isnan()
    bits, magnitude = product.view(torch.int32), product.abs()
    normal = magnitude.view(torch.int32) - (by << MANTISSA_BITS)
    # up to 2^-126, from where on `normal` is as large; for a subnormal it falls short
    units = magnitude.mul_((by > 0).float() * 2.0 ** (_UNITS - LOWER)).clamp_max_(1 << MANTISSA_BITS).round_().int()
    whole = torch.maximum(normal, units).bitwise_or_(bits & SIGN).view(torch.float32)
    return whole.masked_fill_(is_nan, torch.nan).to(dtype)


def finite_amax(x: Tensor) -> Tensor:
    """The largest finite magnitude in `x`, fp32 []; 0 if there is none."""
    return x.float().nan_to_num(0.0, 0.0, 0.0).abs_().amax() if x.numel() else x.new_zeros((), dtype=torch.float32)


def _nearest(y: Tensor, noise: Tensor | None) -> Tensor:
    return y.round_()  # half to even (IEEE 754 roundTiesToEven)


def _away(y: Tensor, noise: Tensor | None) -> Tensor:
    # trunc(2 * fraction) is +-1 from one half on; adding 0.5 to y instead would round 0.5 - 2^-25 up
    whole = y.trunc()
    return y.sub_(whole).mul_(2).trunc_().add_(whole).copysign_(whole)


def _stochastic(y: Tensor, noise: Tensor | None) -> Tensor:
    # up with the probability floor(fraction * 2^24) / 2^24: y has 24 significant bits, so for |y| >= 1 the fraction is
    # a multiple of 2^-23 and this is exact; below 1 the probability is low by less than 2^-24, and what is smaller
    # than that is never moved. noise + 2^-24 has no rounding, either: noise is a multiple of 2^-24
    assert noise is not None
    whole = y.trunc()
    fraction = y - whole
    return whole.add_(fraction.sign() * (fraction.abs() >= noise + 2.0**-24)).copysign_(y)


ROUNDINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "nearest": _nearest,
    "away": _away,
    "stochastic": _stochastic,
}


def round_integers_(y: Tensor, how: str, noise: Tensor | None = None) -> Tensor:
    """fp32 `y` rounded to integers by `how`, a key of ROUNDINGS; y is overwritten.

    A format divides by its step (exact, a power of two), rounds here, and multiplies by the step again.
    noise: fp32 uniform multiples of 2^-24 in [0, 1) of y's shape, for stochastic only. Signed zeros stay.
    """
    return ROUNDINGS[how](y, noise)
