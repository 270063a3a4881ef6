"""The formats in Triton: magnitudes in blocks to elements and what they are multiplied by, and values of these.

Twins of mx.py, nvfp4.py, fp8.py, int8.py and hifp4.py; hifp8.py has its own module, as have NVFP4's scales.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hifp4
from quantctl.kernels.triton.bits import (
    EXPONENT,
    MAGNITUDE,
    SIGN,
    bits_of,
    float_of,
    round_to_element,
    round_to_integer,
)
from quantctl.kernels.triton.blocks import amax_of_blocks, extent_in_blocks, in_blocks
from quantctl.kernels.triton.hadamard import rounded_to
from quantctl.kernels.triton.hifp8 import hifloat8, hifloat8_scale, hifloat8_values
from quantctl.kernels.triton.nvfp4 import nvfp4, nvfp4_values, of_tensor
from quantctl.kernels.triton.scaled import scaled

FP32_LARGEST = tl.constexpr(3.4028234663852886e38)
HIF4_FACTOR = tl.constexpr(hifp4.FACTOR)
HIF4_SMALLEST = tl.constexpr(hifp4.SMALLEST_SCALE)
HIF4_LARGEST = tl.constexpr(hifp4.LARGEST)
E6M2_LARGEST = tl.constexpr(hifp4.E6M2.largest)
E6M2_MANTISSA_BITS = tl.constexpr(hifp4.E6M2.mantissa_bits)
E6M2_MIN_EXPONENT = tl.constexpr(hifp4.E6M2.min_exponent)
MX_NAN = tl.constexpr(0xFF)


@triton.jit
def power_of_two(field):
    """2^(field - 127) for 0 <= field <= 254."""
    # the exponent field of 2^-127 would be 0: it is the subnormal 0x400000
    return float_of(tl.where(field > 0, field << 23, 0x400000))


@triton.jit
def mx(a, amax, noise, Q: tl.constexpr):
    """Elements and the E8M0 byte of blocks whose largest magnitudes have the bits amax."""
    finite = amax < EXPONENT
    byte = ((tl.where(finite, amax, 0) + Q.value.RULE) >> 23) - Q.value.MAX_EXPONENT
    byte = tl.minimum(tl.maximum(byte, 0), 254)
    # 1 / scale has the byte 254 - byte: multiplying by it is exact where dividing by the scale is
    y = a * power_of_two(254 - byte)
    if Q.value.HEADROOM != 1.0:
        y = y * Q.value.HEADROOM
    elements = round_to_element(y, Q.value.LARGEST, noise, Q.value.MANTISSA_BITS, Q.value.MIN_EXPONENT, Q.value.ROUND)
    return elements, tl.where(finite, byte, MX_NAN)


@triton.jit
def mx_values(elements, byte, Q: tl.constexpr):
    if Q.value.HEADROOM != 1.0:
        elements = elements * Q.value.BEHIND
    product = tl.minimum(elements * power_of_two(byte), Q.value.DTYPE_LARGEST)
    return tl.where(byte != MX_NAN, product, float("nan"))


@triton.jit
def fp8(a, amax, noise, Q: tl.constexpr):
    """Elements, and what they are multiplied by."""
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    scale = tl.div_rn(tl.full(amax.shape, Q.value.LARGEST, tl.float32), tl.where(bounded == 0.0, 1.0, bounded))
    scale = tl.where(bits_of(scale) == EXPONENT, Q.value.DTYPE_LARGEST, scale)
    if Q.value.SCALE == "pow2":
        scale = float_of(bits_of(scale) & EXPONENT)
    scale = tl.where(bounded == 0.0, 1.0, scale)
    elements = round_to_element(a * scale, Q.value.LARGEST, noise, Q.value.MANTISSA_BITS, Q.value.MIN_EXPONENT,
                                Q.value.ROUND)  # fmt: skip
    factor = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), scale)
    return elements, tl.where(amax < EXPONENT, factor, float("nan"))


@triton.jit
def int8(a, amax, noise, Q: tl.constexpr):
    """Elements, and what they are multiplied by."""
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    scale = tl.div_rn(bounded, tl.full(amax.shape, Q.value.LARGEST, tl.float32))
    if Q.value.SQUARE:
        kept = rounded_to(tl.minimum(scale, 65504.0), "fp16")
    else:
        kept = rounded_to(scale, Q.value.DTYPE)
        scale = kept
    inverse = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), tl.where(scale == 0.0, 1.0, scale))
    inverse = tl.where(scale == 0.0, 0.0, tl.minimum(inverse, FP32_LARGEST))
    elements = round_to_integer(tl.minimum(a * inverse, Q.value.LARGEST), noise, Q.value.ROUND)
    return elements, tl.where(amax < EXPONENT, kept, float("nan"))


@triton.jit
def hifp4_scales(magnitude, AXIS: tl.constexpr):
    """Of blocks as in_blocks has HiFloat4's: s and 1 / s, and whether the exponents of eights and fours are 1."""
    if AXIS == 1:
        fours = tl.max(magnitude, axis=4, keep_dims=True)
        eights = tl.max(fours, axis=3, keep_dims=True)
        amax = tl.max(eights, axis=2, keep_dims=True)
    else:
        fours = tl.max(magnitude, axis=3, keep_dims=True)
        eights = tl.max(fours, axis=2, keep_dims=True)
        amax = tl.max(eights, axis=1, keep_dims=True)
    wanted = rounded_to(float_of(tl.where(amax < EXPONENT, amax, 0)) * HIF4_FACTOR, "bf16")
    # limited first: steps of larger numbers have no 2^23 of them in fp32
    wanted = tl.minimum(wanted, E6M2_LARGEST)
    scale = round_to_element(wanted, E6M2_LARGEST, 0.0, E6M2_MANTISSA_BITS, E6M2_MIN_EXPONENT, "nearest")
    scale = tl.maximum(scale, HIF4_SMALLEST)
    inverse = rounded_to(tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale), "bf16")
    scale = tl.where(amax < EXPONENT, scale, float("nan"))
    second = (float_of(eights) * inverse >= 4.0) & (amax < EXPONENT)
    third = (float_of(fours) * inverse * tl.where(second, 0.5, 1.0) >= 2.0) & (amax < EXPONENT)
    return scale, inverse, second, third


@triton.jit
def hifp4_elements(a, inverse, second, third, noise, Q: tl.constexpr):
    """k, the elements' four times."""
    per_step = tl.where(second, 0.5, 1.0) * tl.where(third, 2.0, 4.0)
    y = tl.minimum(a * inverse * per_step, HIF4_LARGEST)
    return round_to_integer(y, noise, Q.value.ROUND)


@triton.jit
def hifp4_values(k, scale, second, third, Q: tl.constexpr):
    product = k * (tl.where(second, 2.0, 1.0) * tl.where(third, 2.0, 1.0) * (scale * 0.25))
    return tl.where(scale == scale, tl.minimum(product, Q.value.DTYPE_LARGEST), float("nan"))


@triton.jit
def quantize_dequantize_tile(bits, noise, amax, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr,
                             COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> fp32 bits of their values in the format, in blocks along AXIS.

    noise: 1 .. 2^24 of that shape, for stochastic rounding. amax: as blocks.amax_of_extent gives it.
    """
    B: tl.constexpr = Q.value.BLOCK
    FORMAT: tl.constexpr = Q.value.FORMAT
    if B != 0:  # Triton 3.3 evaluates both sides of `or`
        tl.static_assert((ROWS % B == 0 or AXIS == 1) and (COLUMNS % B == 0 or AXIS == 0))
    magnitude, sign = bits & MAGNITUDE, bits & SIGN
    if FORMAT == "hifp8":
        values = hifloat8(magnitude, noise, amax, Q)
        # there is one zero
        result = tl.where(values == 0, 0, hifloat8_values(values, hifloat8_scale(amax, Q), Q) | sign)
    else:
        blocks = in_blocks(magnitude, AXIS, Q, ROWS, COLUMNS)
        a = float_of(blocks)
        if Q.value.ROUND == "stochastic":
            noise = in_blocks(noise, AXIS, Q, ROWS, COLUMNS)
        if FORMAT == "hifp4":
            scale, inverse, second, third = hifp4_scales(blocks, AXIS)
            values = hifp4_values(hifp4_elements(a, inverse, second, third, noise, Q), scale, second, third, Q)
        elif FORMAT == "nvfp4":
            extent = extent_in_blocks(amax, AXIS, Q, ROWS, COLUMNS)
            elements, b = nvfp4(a, amax_of_blocks(blocks, AXIS, Q), extent, noise, AXIS, Q, ROWS, COLUMNS)
            values = nvfp4_values(elements, b, of_tensor(extent, Q), Q)
        else:
            if B != 0:
                amax = amax_of_blocks(blocks, AXIS, Q)
            if FORMAT == "mx":
                elements, byte = mx(a, amax, noise, Q)
                values = mx_values(elements, byte, Q)
            elif FORMAT == "fp8":
                elements, factor = fp8(a, amax, noise, Q)
                values = scaled(elements, factor, Q.value.DTYPE_LARGEST)
            else:
                elements, factor = int8(a, amax, noise, Q)
                values = scaled(elements, factor, Q.value.DTYPE_LARGEST)
                # there is one zero; the value of another element may be one, too
                sign = tl.where(tl.reshape(elements, (ROWS, COLUMNS)) == 0.0, 0, sign)
        result = tl.reshape(bits_of(values), (ROWS, COLUMNS)) | sign
    return within_dtype(result, Q)


@triton.jit
def within_dtype(bits, Q: tl.constexpr):
    """Bits of values limited to the tensor's dtype, where something wider was quantized."""
    if Q.value.OUT_LARGEST < Q.value.DTYPE_LARGEST:
        magnitude = bits & MAGNITUDE
        limited = bits_of(tl.minimum(float_of(magnitude), Q.value.OUT_LARGEST)) | (bits & SIGN)
        return tl.where(magnitude > EXPONENT, bits, limited)
    else:
        return bits
