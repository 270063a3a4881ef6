"""Codes in Triton: a tile's element codes and block scales, and the values back. Twins of encode and decode."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hifp4, hifp8
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, SIGN, bits_of, float_of
from quantctl.kernels.triton.blocks import amax_of_blocks, extent_in_blocks, in_blocks, of_blocks, out_of_blocks
from quantctl.kernels.triton.formats import (
    fp8,
    hifp4_elements,
    hifp4_scales,
    hifp4_values,
    int8,
    mx,
    mx_values,
)
from quantctl.kernels.triton.hifp8 import hifloat8, hifloat8_values
from quantctl.kernels.triton.nvfp4 import nvfp4, nvfp4_values
from quantctl.kernels.triton.scaled import scaled

HIF8_SHIFT = tl.constexpr(hifp8.CODES_SHIFT)
HIF8_FIRST = tl.constexpr(hifp8.CODES_FIRST)
HIF8_LAST = tl.constexpr(hifp8.CODES_LAST)
HIF8_NAN = tl.constexpr(hifp8.CODE_NAN)
E6M2_FIRST = tl.constexpr((127 + hifp4.E6M2.min_exponent) << 2)
HIF4_NAN = tl.constexpr(hifp4.NAN_BYTE)
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
def encode_tile(bits, noise, amax, table_ptr, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> int32 codes of that shape, and the blocks' scales as blocks.out_of_blocks has them:
    int32 bytes or words, fp32 factors; where there are no blocks just 0. amax: as in quantize_dequantize_tile."""
    FORMAT: tl.constexpr = Q.value.FORMAT
    SIGN_BIT: tl.constexpr = 1 << (Q.value.BITS - 1)
    magnitude, sign = bits & MAGNITUDE, (bits >> (32 - Q.value.BITS)) & SIGN_BIT
    scales = 0
    if FORMAT == "hifp8":
        values = hifloat8(magnitude, noise, amax, Q)
        index = tl.minimum(tl.maximum((values >> HIF8_SHIFT) - HIF8_FIRST, 0), HIF8_LAST)
        codes = tl.load(table_ptr + index).to(tl.int32) | tl.where(values == 0, 0, sign)
        return tl.where(values > EXPONENT, HIF8_NAN, codes), scales
    else:
        blocks, sign = in_blocks(magnitude, AXIS, Q, ROWS, COLUMNS), in_blocks(sign, AXIS, Q, ROWS, COLUMNS)
        a = float_of(blocks)
        if Q.value.ROUND == "stochastic":
            noise = in_blocks(noise, AXIS, Q, ROWS, COLUMNS)
        if FORMAT == "hifp4":
            scale, inverse, second, third = hifp4_scales(blocks, AXIS)
            k = hifp4_elements(a, inverse, second, third, noise, Q)
            codes = tl.where(scale == scale, k.to(tl.int32) | sign, 0)
            scales = out_of_blocks(_hifp4_word(scale, second, third, AXIS), AXIS, Q, ROWS, COLUMNS)
        elif FORMAT == "nvfp4":
            extent = extent_in_blocks(amax, AXIS, Q, ROWS, COLUMNS)
            elements, b = nvfp4(a, amax_of_blocks(blocks, AXIS, Q), extent, noise, AXIS, Q, ROWS, COLUMNS)
            codes = tl.where(b == b, _element_codes(elements, 1, 0) | sign, 0)
            scales = out_of_blocks(tl.where(b == b, _element_codes(b, 3, -6), NVFP4_NAN), AXIS, Q, ROWS, COLUMNS)
        else:
            if Q.value.BLOCK != 0:
                amax = amax_of_blocks(blocks, AXIS, Q)
            if FORMAT == "mx":
                elements, scale = mx(a, amax, noise, Q)
            elif FORMAT == "fp8":
                elements, scale = fp8(a, amax, noise, Q)
            else:
                elements, scale = int8(a, amax, noise, Q)
            if FORMAT == "int8":
                whole = elements.to(tl.int32)
                codes = tl.where(sign != 0, -whole, whole) & 0xFF
            else:
                codes = _element_codes(elements, Q.value.MANTISSA_BITS, Q.value.MIN_EXPONENT) | sign
            codes = tl.where(amax < EXPONENT, codes, 0)
            if Q.value.BLOCK != 0:
                scales = out_of_blocks(scale, AXIS, Q, ROWS, COLUMNS)
        return tl.reshape(codes, (ROWS, COLUMNS)), scales


@triton.jit
def _hifp4_word(scale, second, third, AXIS: tl.constexpr):
    """HiFloat4's word of each block: the byte of E6M2, then the bits of eights and of fours."""
    eights, halves = tl.arange(0, 8), tl.arange(0, 2)
    if AXIS == 1:
        places = 8 + eights[None, None, :, None, None]
        fours = 16 + 2 * eights[None, None, :, None, None] + halves[None, None, None, :, None]
        second = tl.sum(second.to(tl.int32) << places, axis=2, keep_dims=True)
        third = tl.sum(tl.sum(third.to(tl.int32) << fours, axis=3, keep_dims=True), axis=2, keep_dims=True)
    else:
        places = 8 + eights[None, :, None, None, None]
        fours = 16 + 2 * eights[None, :, None, None, None] + halves[None, None, :, None, None]
        second = tl.sum(second.to(tl.int32) << places, axis=1, keep_dims=True)
        third = tl.sum(tl.sum(third.to(tl.int32) << fours, axis=2, keep_dims=True), axis=1, keep_dims=True)
    byte = tl.where(scale == scale, (bits_of(scale) >> 21) - E6M2_FIRST, HIF4_NAN)
    return byte | second | third


@triton.jit
def decode_tile(codes, scales, factor, table_ptr, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr):  # fmt: skip
    """What encode_tile gave -> fp32 bits of the values.

    factor: what is kept of the tensor [1, 1], or of each row as it broadcasts against the tile.
    """
    FORMAT: tl.constexpr = Q.value.FORMAT
    if FORMAT == "hifp8":
        return hifloat8_values(tl.load(table_ptr + codes).to(tl.int32) << 16, factor, Q)
    else:
        if FORMAT == "int8":
            sign = (codes << 24) & SIGN
            magnitude = tl.where(sign != 0, 256 - codes, codes)
        else:
            sign = (codes << (32 - Q.value.BITS)) & SIGN
            magnitude = codes & ((1 << (Q.value.BITS - 1)) - 1)
        magnitude = in_blocks(magnitude, AXIS, Q, ROWS, COLUMNS)
        if Q.value.BLOCK == 0:
            scales = factor
        if Q.value.BLOCK != 0:
            scales = of_blocks(scales, AXIS, Q, ROWS, COLUMNS)
        if FORMAT == "mx":
            elements = _element_values(magnitude, Q.value.MANTISSA_BITS, Q.value.MIN_EXPONENT)
            values = mx_values(elements, scales, Q)
        elif FORMAT == "nvfp4":
            b = tl.where(scales == NVFP4_NAN, float("nan"), _element_values(scales, 3, -6))
            of_tensor = extent_in_blocks(factor, AXIS, Q, ROWS, COLUMNS)
            values = nvfp4_values(_element_values(magnitude, 1, 0), b, of_tensor, Q)
        elif FORMAT == "hifp4":
            values = _hifp4_values(magnitude, scales, AXIS, Q)
        elif FORMAT == "int8":
            values = scaled(magnitude.to(tl.float32), scales, Q.value.DTYPE_LARGEST)
        else:
            elements = _element_values(magnitude, Q.value.MANTISSA_BITS, Q.value.MIN_EXPONENT)
            values = scaled(elements, scales, Q.value.DTYPE_LARGEST)
        return tl.reshape(bits_of(values), (ROWS, COLUMNS)) | sign


@triton.jit
def _hifp4_values(k, word, AXIS: tl.constexpr, Q: tl.constexpr):
    eights, halves = tl.arange(0, 8), tl.arange(0, 2)
    if AXIS == 1:
        eights, halves = eights[None, None, :, None, None], halves[None, None, None, :, None]
    else:
        eights, halves = eights[None, :, None, None, None], halves[None, None, :, None, None]
    byte = word & 0xFF
    scale = tl.where(byte == HIF4_NAN, float("nan"), float_of((byte + E6M2_FIRST) << 21))
    second, third = (word >> (8 + eights)) & 1, (word >> (16 + 2 * eights + halves)) & 1
    return hifp4_values(k.to(tl.float32), scale, second != 0, third != 0, Q)
