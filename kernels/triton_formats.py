"""The formats in Triton: magnitudes in, values out, on a tile. Twins of mx.py, nvfp4.py and hifp8.py."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels import hifp8
from quantctl.kernels.triton_bits import (
    EXPONENT,
    MAGNITUDE,
    NAN,
    SIGN,
    bits_of,
    float_of,
    round_to_element,
    round_to_step,
)

E4M3_LARGEST = tl.constexpr(448.0)
HIF8_LARGEST = tl.constexpr(hifp8.LARGEST)
HIF8_OVERFLOW = tl.constexpr(hifp8.OVERFLOW)


@triton.jit
def _power_of_two(field):
    # the exponent field of 2^-127 would be 0: it is the subnormal 0x400000
    return float_of(tl.where(field > 0, field << 23, 0x400000))


@triton.jit
def _mx(a, amax, noise, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
        LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr):  # fmt: skip
    """Magnitudes a in blocks with the largest magnitudes' bits amax: mx.py, the scale as its E8M0 byte."""
    byte = tl.minimum(tl.maximum(((amax + RULE) >> 23) - MAX_EXPONENT, 0), 254)
    # 1 / scale has the byte 254 - byte: multiplying by it is exact where dividing by the scale is
    elements = round_to_element(a * _power_of_two(254 - byte), noise, MANTISSA_BITS, MIN_EXPONENT, LARGEST, ROUND)
    return elements * _power_of_two(byte)


@triton.jit
def _nvfp4(a, amax, encode, decode, noise, ROUND: tl.constexpr):
    """Magnitudes a in blocks with the largest magnitudes' bits amax: nvfp4.py, E2M1 under an E4M3 scale."""
    # div_rn: the plain division is not IEEE's on a GPU
    scale = round_to_element(tl.div_rn(float_of(amax), tl.full(amax.shape, 6.0, tl.float32)) * encode, 0.0, 3, -6,
                             E4M3_LARGEST, "nearest")  # fmt: skip
    product = tl.where(scale == 0.0, 1.0, scale * decode)
    inverse = tl.where(scale == 0.0, 0.0, tl.div_rn(tl.full(product.shape, 1.0, tl.float32), product))
    return round_to_element(a * inverse, noise, 1, 0, 6.0, ROUND) * scale * decode


@triton.jit
def _hifloat8(a, noise, ROUND: tl.constexpr):
    """Magnitudes a: hifp8.py. The step from the exponent: 3, 2, 1 mantissa bits up to 3, 7, 15; below, denormals."""
    bounded = tl.minimum(a, HIF8_OVERFLOW)
    exponent = (bits_of(bounded) >> 23) - 127
    size = tl.maximum(exponent, -exponent)
    normal = exponent - 3 + (size > 3).to(tl.int32) + (size > 7).to(tl.int32)
    step = tl.where(exponent < -15, tl.maximum(exponent, -22), normal)
    rounded = tl.minimum(round_to_step(bounded, float_of((step + 127) << 23), noise, ROUND), HIF8_LARGEST)
    return tl.where(a >= HIF8_OVERFLOW, float("inf"), rounded)


@triton.jit
def quantize_dequantize_tile(bits, noise, encode, decode, AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
                         MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
                         LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, SCALED: tl.constexpr,
                         DTYPE_LARGEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> fp32 bits of their values in the format, in blocks along AXIS."""
    tl.static_assert(FORMAT == "mx" or FORMAT == "nvfp4" or FORMAT == "hifp8")
    tl.static_assert(ROWS % BLOCK == 0 or AXIS == 1)
    tl.static_assert(COLUMNS % BLOCK == 0 or AXIS == 0)
    magnitude = bits & MAGNITUDE
    a = float_of(magnitude)
    if FORMAT == "hifp8":
        values = _hifloat8(a * encode if SCALED else a, noise, ROUND)
        # there is one zero
        sign = tl.where(values == 0.0, 0, bits & SIGN)
        if SCALED:
            values = tl.where(values < float("inf"), tl.minimum(values * decode, DTYPE_LARGEST), values)
        return tl.where(magnitude > EXPONENT, NAN, bits_of(values) | sign)
    else:
        if AXIS == 1:
            SHAPE: tl.constexpr = (ROWS, COLUMNS // BLOCK, BLOCK)
            INNER: tl.constexpr = 2
        else:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS)
            INNER: tl.constexpr = 1
        blocks = tl.reshape(a, SHAPE)
        # bits of magnitudes ascend as the magnitudes do, NaN above Inf above all others
        amax = tl.max(tl.reshape(magnitude, SHAPE), axis=INNER, keep_dims=True)
        if ROUND == "stochastic":
            noise = tl.reshape(noise, SHAPE)
        # blocks with NaN or Inf are computed as if they were zero: their result is not used
        finite = amax < EXPONENT
        bounded = tl.where(finite, amax, 0)
        blocks = tl.where(finite, blocks, 0.0)
        if FORMAT == "mx":
            values = _mx(blocks, bounded, noise, MANTISSA_BITS, MIN_EXPONENT, MAX_EXPONENT, LARGEST, RULE, ROUND)
        else:
            values = _nvfp4(blocks, bounded, encode, decode, noise, ROUND)
        result = tl.where(finite, bits_of(tl.minimum(values, DTYPE_LARGEST)), NAN)
        return tl.reshape(result, (ROWS, COLUMNS)) | (bits & SIGN)
