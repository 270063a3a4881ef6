"""How the CPU kernels are compiled, and what numba lacks for them: the bits of an fp32 number, and those of a dtype.

The kernels take tensors as integers of their dtype's width, one NumPy dtype for each of ours, so that a signature
says which it is: bf16 uint16, fp16 int16, fp32 int32. Magnitudes travel as the bits of fp32 in int32. numba computes
with integers of 64 bits; what is cast back at once stays in lanes of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload
from torch import Tensor

from quantctl.kernels.cpu.kept import Kept

BITS = {torch.bfloat16: np.uint16, torch.float16: np.int16, torch.float32: np.int32}

INFINITY = 0x7F800000
"""Bits of fp32 Inf; those of NaN are larger. At the same time the mask of the exponent field."""
HALF_BIAS = 112 << 23
"""What the exponent field of fp32 has more than that of fp16, as bits."""
HALF_FIRST = 113 << 23
"""fp32 bits of fp16's smallest normal number, 2^-14."""

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
OVERLOAD: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """A function that Python calls: compiled at its first call for each signature, and kept on disk."""
    dispatcher = numba.njit(function, **_OPTIONS)
    dispatcher._cache = Kept(function)
    return dispatcher


def part(function: Callable[..., Any]) -> Any:
    """A piece of kernels that goes into each of its callers, so that their loops are vectorized as one."""
    return numba.njit(function, **_OPTIONS, forceinline=True)


@intrinsic
def as_float(typing_context: Any, bits: Any) -> Any:
    """The fp32 number with these int32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def as_bits(typing_context: Any, value: Any) -> Any:
    """The int32 bits of an fp32 number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


def magnitude(word: Any) -> Any:
    """The bits of |value| in fp32, int32, of a word of any of the dtypes. Subnormal fp16 numbers are normal in fp32."""


@overload(magnitude, jit_options=OVERLOAD)
def _magnitude(word: Any) -> Any:
    if word == types.uint16:

        def bf16(word: Any) -> Any:
            return np.int32((np.int32(word) & np.int32(0x7FFF)) << np.int32(16))

        return bf16
    if word == types.int16:

        def fp16(word: Any) -> Any:
            half = np.int32(np.int32(word) & np.int32(0x7FFF))
            bits = np.int32((half << np.int32(13)) + np.int32(HALF_BIAS))
            bits = np.int32(bits + HALF_BIAS) if half >= np.int32(0x7C00) else bits
            small = as_bits(np.float32(half) * np.float32(2.0**-24))
            return small if half < np.int32(0x400) else bits

        return fp16

    def fp32(word: Any) -> Any:
        return np.int32(np.int32(word) & np.int32(0x7FFFFFFF))

    return fp32


def signed(bits: Any, word: Any) -> Any:
    """The word of a value with the fp32 magnitude `bits`, which its dtype holds, and the sign of `word`."""


@overload(signed, jit_options=OVERLOAD)
def _signed(bits: Any, word: Any) -> Any:
    if word == types.uint16:

        def bf16(bits: Any, word: Any) -> Any:
            return np.uint16((bits >> np.int32(16)) | (np.int32(word) & np.int32(0x8000)))

        return bf16
    if word == types.int16:

        def fp16(bits: Any, word: Any) -> Any:
            large = np.int32((bits - np.int32(HALF_BIAS)) >> np.int32(13))
            small = np.int32(as_float(min(bits, np.int32(HALF_FIRST))) * np.float32(2.0**24))
            half = small if bits < np.int32(HALF_FIRST) else large
            half = np.int32(0x7C00) if bits == np.int32(INFINITY) else half
            half = np.int32(0x7E00) if bits > np.int32(INFINITY) else half
            return np.int16(half | (np.int32(word) & np.int32(0x8000)))

        return fp16

    def fp32(bits: Any, word: Any) -> Any:
        return np.int32(bits | (np.int32(word) & np.int32(-0x80000000)))

    return fp32


def rounded(bits: Any, word: Any) -> Any:
    """The fp32 magnitude `bits` (no NaN) rounded to the nearest, ties to even, that the dtype of `word` holds."""


@overload(rounded, jit_options=OVERLOAD)
def _rounded(bits: Any, word: Any) -> Any:
    if word == types.uint16:

        def bf16(bits: Any, word: Any) -> Any:
            odd = (bits >> np.int32(16)) & np.int32(1)
            return np.int32((bits + np.int32(0x7FFF) + odd) & np.int32(-0x10000))

        return bf16
    if word == types.int16:

        def fp16(bits: Any, word: Any) -> Any:
            odd = (bits >> np.int32(13)) & np.int32(1)
            large = np.int32((bits + np.int32(0xFFF) + odd) & np.int32(-0x2000))
            # adding 2^-1 leaves multiples of 2^-24
            small = as_float(min(bits, np.int32(HALF_FIRST)))
            small = (small + np.float32(0.5)) - np.float32(0.5)
            return as_bits(small) if bits < np.int32(HALF_FIRST) else large

        return fp16

    def fp32(bits: Any, word: Any) -> Any:
        return bits

    return fp32


def flat(x: Tensor, span: int) -> np.ndarray:
    """`span` elements of x's memory from its first on, as the integers of its dtype. No copy."""
    if span != x.numel() or not x.is_contiguous():
        x = x.as_strided((span,), (1,))
    words = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bf16
    return words.reshape(-1).view(BITS[x.dtype])
