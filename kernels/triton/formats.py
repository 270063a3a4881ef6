"""The formats in Triton: magnitudes in, values out, on a tile. Twins of mx.py, nvfp4.py, fp8.py and hifp8.py."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hifp8
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, SIGN, bits_of, float_of, round_to_element, round_to_step

E4M3_LARGEST = tl.constexpr(448.0)
OF_TENSOR = tl.constexpr(1 / (6.0 * 448.0))
FP32_LARGEST = tl.constexpr(3.4028234663852886e38)
HIF8_LARGEST = tl.constexpr(hifp8.LARGEST)
HIF8_OVERFLOW = tl.constexpr(hifp8.OVERFLOW)


@triton.jit
def power_of_two(field):
    """2^(field - 127) for 0 <= field <= 254."""
    # the exponent field of 2^-127 would be 0: it is the subnormal 0x400000
    return float_of(tl.where(field > 0, field << 23, 0x400000))


@triton.jit
def mx_scale_byte(amax, MAX_EXPONENT: tl.constexpr, RULE: tl.constexpr):
    """The E8M0 byte of blocks whose largest magnitudes have the bits amax; of no meaning where they are not finite."""
    finite = tl.where(amax < EXPONENT, amax, 0)
    return tl.minimum(tl.maximum(((finite + RULE) >> 23) - MAX_EXPONENT, 0), 254)


@triton.jit
def _mx(a, amax, noise, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
        LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, DTYPE_LARGEST: tl.constexpr,
        HEADROOM: tl.constexpr, BEHIND: tl.constexpr):  # fmt: skip
    """Magnitudes a in blocks with the largest magnitudes' bits amax: mx.py, the scale as its E8M0 byte."""
    byte = mx_scale_byte(amax, MAX_EXPONENT, RULE)
    # 1 / scale has the byte 254 - byte: multiplying by it is exact where dividing by the scale is
    inverse = power_of_two(254 - byte)
    scale = tl.where(amax < EXPONENT, power_of_two(byte), float("nan"))
    if HEADROOM != 1.0:
        elements = round_to_element(a * inverse * HEADROOM, LARGEST, noise, MANTISSA_BITS, MIN_EXPONENT, ROUND)
        product = tl.minimum(elements * BEHIND * scale, DTYPE_LARGEST)
        return tl.where(amax < EXPONENT, product, float("nan"))
    # saturation of the element and of the product in one: the second limit is exact, or above the first
    limit = tl.minimum(inverse * DTYPE_LARGEST, LARGEST)
    return round_to_element(a * inverse, limit, noise, MANTISSA_BITS, MIN_EXPONENT, ROUND) * scale


@triton.jit
def nvfp4_scale(amax, encode, decode):
    """The scales of blocks whose largest magnitudes have the bits amax, and what elements are multiplied by."""
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    # div_rn: the plain division is not IEEE's on a GPU
    wanted = tl.div_rn(bounded, tl.full(amax.shape, 6.0, tl.float32)) * encode
    scale = round_to_element(wanted, E4M3_LARGEST, 0.0, 3, -6, "nearest")
    product = tl.where(scale == 0.0, 1.0, scale * decode)
    return scale, tl.where(scale == 0.0, 0.0, tl.div_rn(tl.full(product.shape, 1.0, tl.float32), product))


@triton.jit
def scaled(elements, factor, DTYPE_LARGEST: tl.constexpr):
    """elements * factor as rounding.py's lowering and lower have it: what is subnormal is rounded a second time."""
    low = factor < 2.0**-60
    product = elements * tl.where(low, factor * 2.0**64, factor)
    units = tl.minimum(product * 2.0**85, 8388608.0)
    units = ((units + 8388608.0) - 8388608.0).to(tl.int32)
    lowered = float_of(tl.maximum(bits_of(product) - (64 << 23), units))
    return tl.where(low, lowered, tl.minimum(product, DTYPE_LARGEST))


@triton.jit
def _fp8(a, amax, noise, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, LARGEST: tl.constexpr,
         POWERS: tl.constexpr, ROUND: tl.constexpr, DTYPE_LARGEST: tl.constexpr):  # fmt: skip
    """Magnitudes a in blocks with the largest magnitudes' bits amax: fp8.py."""
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    scale = tl.div_rn(tl.full(amax.shape, LARGEST, tl.float32), tl.where(bounded == 0.0, 1.0, bounded))
    scale = tl.where(bits_of(scale) == EXPONENT, DTYPE_LARGEST, scale)
    if POWERS:
        scale = float_of(bits_of(scale) & EXPONENT)
    scale = tl.where(bounded == 0.0, 1.0, scale)
    elements = round_to_element(a * scale, LARGEST, noise, MANTISSA_BITS, MIN_EXPONENT, ROUND)
    factor = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), scale)
    return tl.where(amax < EXPONENT, scaled(elements, factor, DTYPE_LARGEST), float("nan"))


@triton.jit
def _multiplied(a, amax, encode, decode, of_tensor, noise, ROUND: tl.constexpr, DTYPE_LARGEST: tl.constexpr,
                HEADROOM: tl.constexpr, BEHIND: tl.constexpr):  # fmt: skip
    """nvfp4.py's scale=multiply; of_tensor: the largest finite magnitude of the tensor."""
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    scale = round_to_element(bounded * encode, E4M3_LARGEST, 0.0, 3, -6, "nearest")
    product = scale * decode
    inverse = tl.div_rn(tl.full(product.shape, 1.0, tl.float32), tl.where(product == 0.0, 1.0, product))
    inverse = tl.where(product == 0.0, FP32_LARGEST, tl.minimum(inverse, FP32_LARGEST))
    y = a * inverse
    factor = scale * of_tensor * OF_TENSOR
    if HEADROOM != 1.0:
        y = y * HEADROOM
        factor = factor * BEHIND
    elements = round_to_element(tl.minimum(y, 6.0), 6.0, noise, 1, 0, ROUND)
    return tl.where(amax < EXPONENT, scaled(elements, factor, DTYPE_LARGEST), float("nan"))


@triton.jit
def _nvfp4(a, amax, encode, decode, noise, ROUND: tl.constexpr, DTYPE_LARGEST: tl.constexpr, HEADROOM: tl.constexpr,
           BEHIND: tl.constexpr):  # fmt: skip
    """Magnitudes a in blocks with the largest magnitudes' bits amax: nvfp4.py, E2M1 under an E4M3 scale."""
    scale, inverse = nvfp4_scale(amax, encode, decode)
    if HEADROOM != 1.0:
        elements = round_to_element(a * inverse * HEADROOM, 6.0, noise, 1, 0, ROUND)
        decode = decode * BEHIND
    else:
        elements = round_to_element(a * inverse, 6.0, noise, 1, 0, ROUND)
    return tl.where(amax < EXPONENT, tl.minimum(elements * scale * decode, DTYPE_LARGEST), float("nan"))


@triton.jit
def hifloat8_bits(magnitude, noise, ROUND: tl.constexpr):
    """Bits of magnitudes -> bits: hifp8.py."""
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
        a = tl.minimum(float_of(magnitude), HIF8_OVERFLOW)
        exponent = (bits_of(a) >> 23) - 127
        size = tl.maximum(exponent, -exponent)
        normal = exponent - 3 + (size > 3).to(tl.int32) + (size > 7).to(tl.int32)
        step = tl.where(exponent < -15, tl.maximum(exponent, -22), normal)
        rounded = bits_of(tl.minimum(round_to_step(a, (step + 127) << 23, noise, ROUND), HIF8_LARGEST))
    # from 1.25 * 2^15 on: Inf, or NaN, whose bits are above those of Inf
    return tl.where(magnitude < (142 << 23) + (1 << 21), rounded, tl.maximum(magnitude, EXPONENT))


@triton.jit
def quantize_dequantize_tile(bits, noise, encode, decode, AXIS: tl.constexpr, FORMAT: tl.constexpr,
                             BLOCK: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr,
                             MAX_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr,
                             SCALED: tl.constexpr, DTYPE_LARGEST: tl.constexpr, ROWS: tl.constexpr,
                             COLUMNS: tl.constexpr, of_tensor=0.0, SQUARE: tl.constexpr = False,
                             POWERS: tl.constexpr = False, HEADROOM: tl.constexpr = 1.0,
                             BEHIND: tl.constexpr = 1.0):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> fp32 bits of their values in the format, in blocks along AXIS, or in squares.

    HEADROOM, BEHIND: what elements are multiplied by before rounding beside their scale, and its inverse.
    """
    tl.static_assert((FORMAT == "mx" or FORMAT == "nvfp4") or (FORMAT == "hifp8" or FORMAT == "nvfp4_multiply")
                     or (FORMAT == "fp8" or FORMAT == "fp8_tensor"))  # fmt: skip
    tl.static_assert(ROWS % BLOCK == 0 or AXIS == 1)
    tl.static_assert(COLUMNS % BLOCK == 0 or AXIS == 0)
    magnitude = bits & MAGNITUDE
    if FORMAT == "hifp8":
        if SCALED:
            values = hifloat8_bits(bits_of(float_of(magnitude) * encode) & MAGNITUDE, noise, ROUND)
            product = bits_of(tl.minimum(float_of(values) * decode, DTYPE_LARGEST))
            result = tl.where(values < EXPONENT, product, values)
        else:
            values = hifloat8_bits(magnitude, noise, ROUND)
            result = values
        # there is one zero
        return tl.where(values == 0, 0, result | (bits & SIGN))
    elif FORMAT == "fp8_tensor":
        elements = round_to_element(float_of(magnitude) * encode, LARGEST, noise, MANTISSA_BITS, MIN_EXPONENT, ROUND)
        values = tl.where(decode == decode, scaled(elements, decode, DTYPE_LARGEST), float("nan"))
        return bits_of(values) | (bits & SIGN)
    else:
        if SQUARE:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS // BLOCK, BLOCK)
            INNER: tl.constexpr = 3
        elif AXIS == 1:
            SHAPE: tl.constexpr = (ROWS, COLUMNS // BLOCK, BLOCK)  # type: ignore[no-redef]
            INNER: tl.constexpr = 2  # type: ignore[no-redef]
        else:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS)  # type: ignore[no-redef]
            INNER: tl.constexpr = 1  # type: ignore[no-redef]
        blocks = float_of(tl.reshape(magnitude, SHAPE))
        # bits of magnitudes ascend as the magnitudes do, NaN above Inf above all others
        amax = tl.max(tl.reshape(magnitude, SHAPE), axis=INNER, keep_dims=True)
        if SQUARE:
            amax = tl.max(amax, axis=1, keep_dims=True)
        if ROUND == "stochastic":
            noise = tl.reshape(noise, SHAPE)
        if FORMAT == "mx":
            values = _mx(blocks, amax, noise, MANTISSA_BITS, MIN_EXPONENT, MAX_EXPONENT, LARGEST, RULE, ROUND,
                         DTYPE_LARGEST, HEADROOM, BEHIND)  # fmt: skip
        elif FORMAT == "fp8":
            values = _fp8(blocks, amax, noise, MANTISSA_BITS, MIN_EXPONENT, LARGEST, POWERS, ROUND,
                          DTYPE_LARGEST)  # fmt: skip
        elif FORMAT == "nvfp4_multiply":
            values = _multiplied(blocks, amax, encode, decode, of_tensor, noise, ROUND, DTYPE_LARGEST, HEADROOM,
                                 BEHIND)  # fmt: skip
        else:
            values = _nvfp4(blocks, amax, encode, decode, noise, ROUND, DTYPE_LARGEST, HEADROOM, BEHIND)
        return tl.reshape(bits_of(values), (ROWS, COLUMNS)) | (bits & SIGN)
