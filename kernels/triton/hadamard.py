"""The Hadamard transform of a tile in Triton: hadamard.py, each sum and product as there.

A butterfly of constant geometry: each stage takes neighbours, and what it makes of them goes to the front and to the
back half, so that behind the last stage everything is where it belongs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import hadamard
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, bits_of, float_of, random_words

MINUS = tl.constexpr(sum(1 << i for i, sign in enumerate(hadamard.FIXED_SIGNS) if sign < 0))
NAN = tl.constexpr(0x7FC00000)


@triton.jit
def rounded_to(x, DTYPE: tl.constexpr):
    """fp32 rounded half to even to what a dtype holds, as fp32."""
    if DTYPE == "bf16":
        bits = bits_of(x)
        # what is added would carry a NaN into the sign
        rounded = tl.where((bits & MAGNITUDE) > EXPONENT, NAN, (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536)
        return float_of(rounded)
    elif DTYPE == "fp16":
        return x.to(tl.float16).to(tl.float32)
    else:
        return x


@triton.jit
def _signs(seed_low, seed_high, rank, call_low, call_high, Q: tl.constexpr):
    """1 and -1, fp32 [1, HADAMARD]."""
    index = tl.arange(0, Q.value.HADAMARD)
    if Q.value.SIGNS == "fixed":
        minus = (MINUS >> index) & 1
    else:
        minus = random_words(index, seed_low, seed_high, call_low, call_high, rank) & 1
    return (1.0 - 2.0 * minus.to(tl.float32))[None, :]


@triton.jit
def _along_rows(x, signs, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """fp32 [ROWS, COLUMNS] in lines of HADAMARD neighbours."""
    N: tl.constexpr = Q.value.HADAMARD
    LINES: tl.constexpr = ROWS * COLUMNS // N
    x = tl.reshape(x, (LINES, N))
    if Q.value.SIGNS != "none":
        x = x * signs
    plus_minus = (1.0 - 2.0 * tl.arange(0, 2).to(tl.float32))[None, :, None]
    STAGES: tl.constexpr = 4 if N == 16 else (5 if N == 32 else (6 if N == 64 else 7))
    for _ in tl.static_range(STAGES):
        first, second = tl.split(tl.reshape(x, (LINES, N // 2, 2)))
        # Triton 3.3 cannot join what it has split
        x = tl.reshape(first[:, None, :] + plus_minus * second[:, None, :], (LINES, N))
    return tl.reshape(x, (ROWS, COLUMNS))


@triton.jit
def transformed(bits, seed_low, seed_high, rank, call_low, call_high, AXIS: tl.constexpr, Q: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits of a tile -> those behind the transform of the spec along AXIS, if it has one."""
    if Q.value.HADAMARD == 0:
        return bits
    else:
        signs = 1.0
        if Q.value.SIGNS != "none":
            signs = _signs(seed_low, seed_high, rank, call_low, call_high, Q)
        if AXIS == 1:
            x = _along_rows(float_of(bits), signs, Q, ROWS, COLUMNS)
        else:
            x = tl.trans(_along_rows(tl.trans(float_of(bits)), signs, Q, COLUMNS, ROWS))
        return bits_of(rounded_to(x * Q.value.HADAMARD**-0.5, Q.value.DTYPE))
