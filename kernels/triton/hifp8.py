"""HiFloat8 in Triton: hifp8.py on bits of magnitudes."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hifp8
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, SIGN, bits_of, float_of, round_to_step
from quantctl.kernels.triton.scaled import scaled

LARGEST = tl.constexpr(hifp8.LARGEST)
OVERFLOW = tl.constexpr(hifp8.OVERFLOW)
TARGET_FIELDS = tl.constexpr(hifp8.TENSOR_TARGET << 23)


@triton.jit
def _rounded(magnitude, noise, ROUND: tl.constexpr):
    """Bits of magnitudes -> bits."""
    if ROUND == "away":
        # in an exponent's range half a step is one bit of the mantissa: adding it carries where half goes up, and the
        # bits below a step are cut off. An unsigned difference tests both ends of a range of exponents at once
        half = tl.where((magnitude - (124 << 23)).to(tl.uint32, bitcast=True) < (7 << 23), 1 << 19, 1 << 20)
        half = tl.where((magnitude - (120 << 23)).to(tl.uint32, bitcast=True) < (15 << 23), half, 1 << 21)
        half = tl.where(magnitude < (112 << 23), 1 << 22, half)
        # 2^-22 is the smallest; what is below half of it becomes 0
        rounded = tl.maximum((magnitude + half) & -(half + half), 105 << 23)
        rounded = tl.where(magnitude < (104 << 23), 0, rounded)
    else:
        a = tl.minimum(float_of(magnitude), OVERFLOW)
        exponent = (bits_of(a) >> 23) - 127
        size = tl.maximum(exponent, -exponent)
        normal = exponent - 3 + (size > 3).to(tl.int32) + (size > 7).to(tl.int32)
        step = tl.where(exponent < -15, tl.maximum(exponent, -22), normal)
        rounded = bits_of(tl.minimum(round_to_step(a, (step + 127) << 23, noise, ROUND), LARGEST))
    # from 1.25 * 2^15 on: Inf, or NaN, whose bits are above those of Inf
    return tl.where(magnitude < (142 << 23) + (1 << 21), rounded, tl.maximum(magnitude, EXPONENT))


@triton.jit
def hifloat8_scale(amax, Q: tl.constexpr):
    """What a tensor whose largest finite magnitude has the bits amax is divided by."""
    if Q.value.SCALE == "tensor":
        scale = tl.maximum((amax & EXPONENT) - TARGET_FIELDS, 1 << 23)
        return tl.where(amax == 0, 1.0, float_of(scale))
    elif Q.value.SCALE == "fp32":
        scale = tl.div_rn(float_of(amax), tl.full(amax.shape, Q.value.TARGET, tl.float32))
        return tl.where(scale == 0.0, 1.0, scale)
    else:
        return 1.0


@triton.jit
def hifloat8(magnitude, noise, amax, Q: tl.constexpr):
    """Bits of magnitudes -> those of HiFloat8's, divided by the scale."""
    if Q.value.SCALE == "tensor":
        scale = hifloat8_scale(amax, Q)
        inverse = float_of((254 << 23) - bits_of(scale))
        magnitude = bits_of(float_of(magnitude) * inverse) & MAGNITUDE
    elif Q.value.SCALE == "fp32":
        scale = tl.broadcast_to(hifloat8_scale(amax, Q), magnitude.shape)
        magnitude = bits_of(tl.div_rn(float_of(magnitude), scale)) & MAGNITUDE
    return _rounded(magnitude, noise, Q.value.ROUND)


@triton.jit
def hifloat8_values(values, scale, Q: tl.constexpr):
    """Bits of HiFloat8 values times the scale; of magnitudes, or with their sign."""
    if Q.value.SCALE == "none":
        return values
    else:
        magnitude = values & MAGNITUDE
        a = float_of(magnitude)
        if Q.value.SCALE == "fp32":
            product = scaled(a, scale, Q.value.DTYPE_LARGEST)
        else:
            product = tl.minimum(a * scale, Q.value.DTYPE_LARGEST)
        return tl.where(magnitude < EXPONENT, bits_of(product) | (values & SIGN), values)
