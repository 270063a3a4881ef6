"""Blocks of NVFP4 on fp32 magnitudes; formats/nvfp4.py has the formulas, each operation rounded as there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels.cpu.blocks import block_of, is_plain, largest, of_line, prepare, quantize, stored
from quantctl.kernels.cpu.compiled import LARGEST, as_bits, as_float, implements, part
from quantctl.kernels.cpu.rounding import nearest, rounded_to
from quantctl.kernels.cpu.words import INFINITY, rounded, signed
from quantctl.kernels.formats import mxfp4, mxfp8, nvfp4
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS

ELEMENT_LARGEST, SCALE_LARGEST = np.float32(mxfp4.E2M1.largest), np.float32(mxfp8.E4M3.largest)
ELEMENT_LOWEST = np.int32((BIAS + mxfp4.E2M1.min_exponent) << MANTISSA_BITS)
SCALE_LOWEST = np.int32((BIAS + mxfp8.E4M3.min_exponent) << MANTISSA_BITS)
ELEMENT_MANTISSA = np.int32(mxfp4.E2M1.mantissa_bits << MANTISSA_BITS)
SCALE_MANTISSA = np.int32(mxfp8.E4M3.mantissa_bits << MANTISSA_BITS)
FP32_LARGEST = np.finfo(np.float32).max
_ONE, _SIXTH = np.float32(1.0), np.float32(1.0) / ELEMENT_LARGEST
_OF_AMAX = np.float32(1 / (mxfp4.E2M1.largest * mxfp8.E4M3.largest))
_TENSOR_LARGEST, _LARGEST_ENCODE = ELEMENT_LARGEST * SCALE_LARGEST, np.float32(nvfp4.LARGEST_ENCODE)
_BLOCK = np.uint64(nvfp4.BLOCK)
_largest = LARGEST[nvfp4.BLOCK]


class NVFP4Numbers(NamedTuple):
    """scale=divide: the tensor scale both ways, fp32."""

    encode: Any
    decode: Any
    headroom: Any
    behind: Any
    """decode over the headroom."""
    dtype_largest: Any


class MultipliedNumbers(NamedTuple):
    """scale=multiply, fp32."""

    encode: Any
    """s_enc / 6, by which a block's largest magnitude becomes b."""
    decode: Any
    """1 / s_enc."""
    headroom: Any
    amax: Any
    of_amax: Any
    """What amax is multiplied by for the values, behind b."""
    inverse_headroom: Any
    dtype_largest: Any


class DividedLines(NamedTuple):
    """scale=divide, each line with its own [lines]."""

    encode: Any
    decode: Any
    behind: Any
    headroom: Any
    dtype_largest: Any


class MultipliedLines(NamedTuple):
    encode: Any
    decode: Any
    amax: Any
    headroom: Any
    of_amax: Any
    inverse_headroom: Any
    dtype_largest: Any


def quotient(limit: np.float32, amax: Any, of_zero: np.float32) -> Any:
    """limit / amax, of one tensor or of each line [lines]."""
    if isinstance(amax, np.ndarray):
        return np.divide(limit, amax, out=np.full_like(amax, of_zero), where=amax != 0)
    return limit / amax if amax else of_zero


def divided(amax: Any, headroom: float, dtype_largest: float) -> NVFP4Numbers | DividedLines:
    """amax: fp32, the largest finite magnitude of the tensor, or of each line."""
    encode = np.minimum(quotient(_TENSOR_LARGEST, amax, _ONE), _LARGEST_ENCODE)
    decode = _ONE / encode
    behind, room, most = decode * np.float32(1 / headroom), np.float32(headroom), np.float32(dtype_largest)
    if isinstance(amax, np.ndarray):
        return DividedLines(encode, decode, behind, room, most)
    return NVFP4Numbers(encode, decode, room, behind, most)


def multiplied(amax: Any, headroom: float, dtype_largest: float) -> MultipliedNumbers | MultipliedLines:
    encode = quotient(_TENSOR_LARGEST, amax, FP32_LARGEST)
    before, decode = encode * _SIXTH, _ONE / encode
    room, inverse, most = np.float32(headroom), np.float32(1 / headroom), np.float32(dtype_largest)
    if isinstance(amax, np.ndarray):
        return MultipliedLines(before, decode, amax, room, _OF_AMAX, inverse, most)
    return MultipliedNumbers(before, decode, room, amax, _OF_AMAX, inverse, most)


@implements(of_line, e=DividedLines)
def _divided_line(e: Any, line: Any) -> Any:
    return NVFP4Numbers(e.encode[line], e.decode[line], e.headroom, e.behind[line], e.dtype_largest)


@implements(of_line, e=MultipliedLines)
def _multiplied_line(e: Any, line: Any) -> Any:
    own = e.encode[line], e.decode[line], e.headroom, e.amax[line]
    return MultipliedNumbers(*own, e.of_amax, e.inverse_headroom, e.dtype_largest)


KINDS = [NVFP4Numbers, MultipliedNumbers, DividedLines, MultipliedLines]


@part
def block_scale(amax: Any, encode: Any) -> Any:
    """b of a block whose largest magnitude has the fp32 bits `amax`, finite."""
    scaled = min((as_float(amax) / ELEMENT_LARGEST) * encode, SCALE_LARGEST)
    return nearest(as_bits(scaled), SCALE_LOWEST, SCALE_MANTISSA)


@implements(block_of, e=KINDS)
def _block_of(e: Any) -> Any:
    return _BLOCK


@implements(largest, e=KINDS)
def _largest_of_block(words: Any, start: Any, size: Any, e: Any) -> Any:
    return _largest(words, start)


@implements(is_plain, e=KINDS)
def _is_plain(amax: Any, e: Any) -> Any:
    return amax < np.int32(INFINITY)


@implements(prepare, e=NVFP4Numbers)
def _prepare(amax: Any, e: Any) -> Any:
    """1 / (b * s_dec), 0 for a block of zeros; and b."""
    b = block_scale(amax, e.encode)
    inverse = np.float32(1.0) / (b * e.decode) if b > np.float32(0.0) else np.float32(0.0)
    return inverse, b


@part
def _element(bits: Any, inverse: Any, e: Any, word: Any, how: Any) -> Any:
    y = as_bits(min((as_float(bits) * inverse) * e.headroom, ELEMENT_LARGEST))
    return rounded_to(y, ELEMENT_LOWEST, ELEMENT_MANTISSA, word, how)


@implements(quantize, e=NVFP4Numbers)
def _quantize(bits: Any, inverse: Any, b: Any, e: Any, word: Any, how: Any) -> Any:
    q = _element(bits, inverse, e, word, how)
    return as_bits(min((q * b) * e.behind, e.dtype_largest))


@implements(stored, e=KINDS)
def _stored(bits: Any, word: Any, e: Any) -> Any:
    return signed(rounded(bits, word), word)


@implements(prepare, e=MultipliedNumbers)
def _multiplied_prepare(amax: Any, e: Any) -> Any:
    """What elements are multiplied by before rounding, and behind it."""
    scaled = min(as_float(amax) * e.encode, SCALE_LARGEST)
    b = nearest(as_bits(scaled), SCALE_LOWEST, SCALE_MANTISSA)
    inverse = min(np.float32(1.0) / (b * e.decode), FP32_LARGEST)
    return inverse, ((b * e.amax) * e.of_amax) * e.inverse_headroom


@implements(quantize, e=MultipliedNumbers)
def _multiplied_quantize(bits: Any, inverse: Any, factor: Any, e: Any, word: Any, how: Any) -> Any:
    return as_bits(min(_element(bits, inverse, e, word, how) * factor, e.dtype_largest))
