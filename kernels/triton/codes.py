"""Codes in Triton: a tile's element codes and block scales, and the values back. Twins of encode and decode."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hifp8
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, SIGN, bits_of, float_of, round_to_element
from quantctl.kernels.triton.formats import hifloat8_bits, mx_scale_byte, nvfp4_scale, power_of_two

HIF8_SHIFT = tl.constexpr(hifp8.CODES_SHIFT)
HIF8_FIRST = tl.constexpr(hifp8.CODES_FIRST)
HIF8_LAST = tl.constexpr(hifp8.CODES_LAST)
HIF8_NAN = tl.constexpr(hifp8.CODE_NAN)
MX_NAN = tl.constexpr(0xFF)
NVFP4_NAN = tl.constexpr(0x7F)


@triton.jit
def _element_codes(v, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr):
    """The codes of magnitudes that the element type has."""
    bits = bits_of(v)
    # adding the smallest normal number to a subnormal makes its multiple of the step the mantissa
    subnormal = bits_of(v + 2.0**MIN_EXPONENT) - ((127 + MIN_EXPONENT) << 23)
    normal = bits - ((126 + MIN_EXPONENT) << 23)
    return tl.where(bits < ((127 + MIN_EXPONENT) << 23), subnormal, normal) >> (23 - MANTISSA_BITS)


@triton.jit
def _element_values(codes, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr):
    """The magnitudes of codes without a sign: the fields of fp32, but for its larger bias."""
    return float_of(codes << (23 - MANTISSA_BITS)) * 2.0 ** (126 + MIN_EXPONENT)


@triton.jit
def encode_tile(bits, noise, encode, decode, table_ptr, AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
                BITS: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr,
                MAX_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr,
                SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> int32 codes of that shape, and the scales' bytes of blocks along AXIS: [ROWS /
    BLOCK, COLUMNS] or [ROWS, COLUMNS / BLOCK], for HiFloat8 just 0."""
    tl.static_assert((FORMAT == "mx" or FORMAT == "nvfp4") or FORMAT == "hifp8")
    magnitude = bits & MAGNITUDE
    if FORMAT == "hifp8":
        if SCALED:
            magnitude = bits_of(float_of(magnitude) * encode) & MAGNITUDE
        values = hifloat8_bits(magnitude, noise, ROUND)
        index = tl.minimum(tl.maximum((values >> HIF8_SHIFT) - HIF8_FIRST, 0), HIF8_LAST)
        codes = tl.load(table_ptr + index).to(tl.int32)
        sign = tl.where(values == 0, 0, (bits >> 24) & 0x80)
        return tl.where(values > EXPONENT, HIF8_NAN, codes | sign), 0
    else:
        if AXIS == 1:
            SHAPE: tl.constexpr = (ROWS, COLUMNS // BLOCK, BLOCK)
            INNER: tl.constexpr = 2
            SCALES: tl.constexpr = (ROWS, COLUMNS // BLOCK)
        else:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS)  # type: ignore[no-redef]
            INNER: tl.constexpr = 1  # type: ignore[no-redef]
            SCALES: tl.constexpr = (ROWS // BLOCK, COLUMNS)  # type: ignore[no-redef]
        blocks = float_of(tl.reshape(magnitude, SHAPE))
        amax = tl.max(tl.reshape(magnitude, SHAPE), axis=INNER, keep_dims=True)
        finite = amax < EXPONENT
        if ROUND == "stochastic":
            noise = tl.reshape(noise, SHAPE)
        if FORMAT == "mx":
            byte = mx_scale_byte(amax, MAX_EXPONENT, RULE)
            elements = round_to_element(blocks * power_of_two(254 - byte), LARGEST, noise, MANTISSA_BITS, MIN_EXPONENT,
                                        ROUND)  # fmt: skip
            codes = _element_codes(elements, MANTISSA_BITS, MIN_EXPONENT)
            scales = tl.where(finite, byte, MX_NAN)
        else:
            scale, inverse = nvfp4_scale(amax, encode, decode)
            codes = _element_codes(round_to_element(blocks * inverse, 6.0, noise, 1, 0, ROUND), 1, 0)
            scales = tl.where(finite, _element_codes(scale, 3, -6), NVFP4_NAN)
        sign = tl.reshape((bits >> (32 - BITS)) & (1 << (BITS - 1)), SHAPE)
        codes = tl.where(finite, codes | sign, 0)
        return tl.reshape(codes, (ROWS, COLUMNS)), tl.reshape(scales, SCALES)


@triton.jit
def decode_tile(codes, scales, decode, table_ptr, AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
                BITS: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, SCALED: tl.constexpr,
                DTYPE_LARGEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """What encode_tile gave -> fp32 bits of the values."""
    if FORMAT == "hifp8":
        values = tl.load(table_ptr + codes).to(tl.int32) << 16
        if SCALED:
            magnitude = values & MAGNITUDE
            product = bits_of(tl.minimum(float_of(magnitude) * decode, DTYPE_LARGEST))
            return tl.where(magnitude < EXPONENT, product | (values & SIGN), values)
        else:
            return values
    else:
        if AXIS == 1:
            SHAPE: tl.constexpr = (ROWS, COLUMNS // BLOCK, BLOCK)
            SCALES: tl.constexpr = (ROWS, COLUMNS // BLOCK, 1)
        else:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS)  # type: ignore[no-redef]
            SCALES: tl.constexpr = (ROWS // BLOCK, 1, COLUMNS)  # type: ignore[no-redef]
        sign = (codes << (32 - BITS)) & SIGN
        magnitude = tl.reshape(codes & ((1 << (BITS - 1)) - 1), SHAPE)
        byte = tl.reshape(scales, SCALES)
        if FORMAT == "mx":
            product = _element_values(magnitude, MANTISSA_BITS, MIN_EXPONENT) * power_of_two(byte)
            finite = byte != MX_NAN
        else:
            product = _element_values(magnitude, 1, 0) * _element_values(byte, 3, -6) * decode
            finite = byte != NVFP4_NAN
        values = tl.where(finite, tl.minimum(product, DTYPE_LARGEST), float("nan"))
        return tl.reshape(bits_of(values), (ROWS, COLUMNS)) | sign
