"""A number of elements times what belongs to them in Triton: lowering and lower of rounding.py."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.bits import bits_of, float_of


@triton.jit
def scaled(elements, factor, LARGEST: tl.constexpr):
    """elements * factor as rounding.py's lowering and lower have it: what is subnormal is rounded a second time. NaN
    where the factor is."""
    low = factor < 2.0**-60
    product = elements * tl.where(low, factor * 2.0**64, factor)
    units = tl.minimum(product * 2.0**85, 8388608.0)
    units = ((units + 8388608.0) - 8388608.0).to(tl.int32)
    lowered = float_of(tl.maximum(bits_of(product) - (64 << 23), units))
    values = tl.where(low, lowered, tl.minimum(product, LARGEST))
    return tl.where(factor == factor, values, float("nan"))
