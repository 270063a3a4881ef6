"""Words of a dtype's memory and the magnitudes that they hold.

The kernels take tensors as integers of their dtype's width, one NumPy dtype for each of ours, so that a signature
says which it is: bf16 uint16, fp16 int16, fp32 int32. Magnitudes travel as the bits of fp32 in int32. numba computes
with integers of 64 bits; what is cast back at once stays in lanes of 32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from quantctl.kernels.cpu.compiled import as_bits, as_float, implements, part

BITS = {torch.bfloat16: np.uint16, torch.float16: np.int16, torch.float32: np.int32}

FINITE, ALL = "finite", "all"
MOST: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {FINITE: np.uint16(0x7F7F), ALL: np.uint16(0x7FFF)},
    torch.float16: {FINITE: np.int16(0x7BFF), ALL: np.int16(0x7FFF)},
    torch.float32: {FINITE: np.int32(0x7F7FFFFF), ALL: np.int32(0x7FFFFFFF)},
}
"""The largest word, without a sign, of finite numbers, and of all."""

INFINITY = 0x7F800000
"""Bits of fp32 Inf; those of NaN are larger. At the same time the mask of the exponent field."""
HALF_BIAS = 112 << 23
"""What the exponent field of fp32 has more than that of fp16, as bits."""
HALF_OVERFLOW = 143 << 23
"""fp32 bits of 2^16, from where on fp16 has Inf."""
HALF_FIRST = 113 << 23
"""fp32 bits of fp16's smallest normal number, 2^-14."""


def magnitude(word: Any) -> Any:
    """The bits of |value| in fp32, int32, of a word of any of the dtypes. Subnormal fp16 numbers are normal in fp32."""


@implements(magnitude, word=types.uint16)
def _bf16_magnitude(word: Any) -> Any:
    return np.int32((np.int32(word) & np.int32(0x7FFF)) << np.int32(16))


@implements(magnitude, word=types.int16)
def _fp16_magnitude(word: Any) -> Any:
    half = np.int32(np.int32(word) & np.int32(0x7FFF))
    bits = np.int32((half << np.int32(13)) + np.int32(HALF_BIAS))
    bits = np.int32(bits + HALF_BIAS) if half >= np.int32(0x7C00) else bits
    small = as_bits(np.float32(half) * np.float32(2.0**-24))
    return small if half < np.int32(0x400) else bits


@implements(magnitude, word=types.int32)
def _fp32_magnitude(word: Any) -> Any:
    return np.int32(word & np.int32(0x7FFFFFFF))


def unsigned(word: Any) -> Any:
    """A word without its sign, in its own width: ordered as magnitudes are, NaN above all."""


@implements(unsigned, word=types.uint16)
def _bf16_unsigned(word: Any) -> Any:
    return np.uint16(word & np.uint16(0x7FFF))


@implements(unsigned, word=types.int16)
def _fp16_unsigned(word: Any) -> Any:
    return np.int16(word & np.int16(0x7FFF))


@implements(unsigned, word=types.int32)
def _fp32_unsigned(word: Any) -> Any:
    return np.int32(word & np.int32(0x7FFFFFFF))


def signed(bits: Any, word: Any) -> Any:
    """The word of a value with the fp32 magnitude `bits`, which its dtype holds, and the sign of `word`."""


@implements(signed, word=types.uint16)
def _bf16_signed(bits: Any, word: Any) -> Any:
    return np.uint16((bits >> np.int32(16)) | (np.int32(word) & np.int32(0x8000)))


@implements(signed, word=types.int16)
def _fp16_signed(bits: Any, word: Any) -> Any:
    large = np.int32((bits - np.int32(HALF_BIAS)) >> np.int32(13))
    small = np.int32(as_float(min(bits, np.int32(HALF_FIRST))) * np.float32(2.0**24))
    half = small if bits < np.int32(HALF_FIRST) else large
    half = np.int32(0x7C00) if bits == np.int32(INFINITY) else half
    half = np.int32(0x7E00) if bits > np.int32(INFINITY) else half
    return np.int16(half | (np.int32(word) & np.int32(0x8000)))


@implements(signed, word=types.int32)
def _fp32_signed(bits: Any, word: Any) -> Any:
    return np.int32(bits | (np.int32(word) & np.int32(-0x80000000)))


def number(word: Any) -> Any:
    """The fp32 number that a word stands for."""


@implements(number, word=types.uint16)
def _bf16_number(word: Any) -> Any:
    return as_float(np.int32(np.int32(word) << np.int32(16)))


@implements(number, word=types.int16)
def _fp16_number(word: Any) -> Any:
    size = as_float(magnitude(word))
    return -size if word < np.int16(0) else size


@implements(number, word=types.int32)
def _fp32_number(word: Any) -> Any:
    return as_float(word)


def narrowed(value: Any, word: Any) -> Any:
    """The word of an fp32 number in the dtype of `word`, by rounding to the nearest, ties to even."""


@implements(narrowed, word=types.uint16)
def _bf16_narrowed(value: Any, word: Any) -> Any:
    bits = as_bits(value)
    size = np.int32(bits & np.int32(0x7FFFFFFF))
    near = np.int32(0x7FC00000) if size > np.int32(INFINITY) else rounded(size, word)
    return signed(near, np.uint16(bits >> np.int32(16)))


@implements(narrowed, word=types.int16)
def _fp16_narrowed(value: Any, word: Any) -> Any:
    bits = as_bits(value)
    size = np.int32(bits & np.int32(0x7FFFFFFF))
    near = rounded(min(size, np.int32(INFINITY)), word)
    near = np.int32(INFINITY) if near >= np.int32(HALF_OVERFLOW) else near
    near = size if size > np.int32(INFINITY) else near
    return signed(near, np.int16(bits >> np.int32(16)))


@implements(narrowed, word=types.int32)
def _fp32_narrowed(value: Any, word: Any) -> Any:
    return as_bits(value)


def rounded(bits: Any, word: Any) -> Any:
    """The fp32 magnitude `bits` (no NaN) rounded to the nearest, ties to even, that the dtype of `word` holds."""


@implements(rounded, word=types.uint16)
def _bf16_rounded(bits: Any, word: Any) -> Any:
    odd = (bits >> np.int32(16)) & np.int32(1)
    return np.int32((bits + np.int32(0x7FFF) + odd) & np.int32(-0x10000))


@implements(rounded, word=types.int16)
def _fp16_rounded(bits: Any, word: Any) -> Any:
    odd = (bits >> np.int32(13)) & np.int32(1)
    large = np.int32((bits + np.int32(0xFFF) + odd) & np.int32(-0x2000))
    # adding 2^-1 leaves multiples of 2^-24
    small = as_float(min(bits, np.int32(HALF_FIRST)))
    small = (small + np.float32(0.5)) - np.float32(0.5)
    return as_bits(small) if bits < np.int32(HALF_FIRST) else large


@implements(rounded, word=types.int32)
def _fp32_rounded(bits: Any, word: Any) -> Any:
    return bits


class Memory(NamedTuple):
    """What kernels are given of a tensor: a NumPy array of it takes as long to make as they need for a small one."""

    address: int
    span: int
    """Elements from the first to the last."""
    like: Any
    """A word of its dtype."""


LIKE = {dtype: kind(0) for dtype, kind in BITS.items()}
"""A word of each."""


def memory(x: Tensor, span: int) -> Memory:
    """`span` elements of x's memory from its first on. Whoever calls a kernel with it keeps x."""
    return Memory(x.data_ptr(), span, LIKE[x.dtype])


@intrinsic
def _pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """The address as one of words of that kind."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.misc.CPointer(like)(address, like), generate


@part
def words_of(memory: Any) -> Any:
    """A flat array of a tensor's words, of its integers' dtype."""
    return carray(_pointer(memory.address, memory.like), (memory.span,))
