"""A tile's blocks in Triton: how they lie in it, and their largest magnitudes. Twin of blocks.py."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE


@triton.jit
def in_blocks(x, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x [ROWS, COLUMNS] with an axis for blocks and one for what lies in them; in squares two of each. HiFloat4's have
    64 = 8 * 2 * 4 elements."""
    B: tl.constexpr = Q.value.BLOCK
    if B == 0:
        return x
    elif Q.value.SQUARE:
        return tl.reshape(x, (ROWS // B, B, COLUMNS // B, B))
    elif Q.value.FORMAT == "hifp4":
        if AXIS == 1:
            return tl.reshape(x, (ROWS, COLUMNS // B, 8, 2, 4))
        else:
            return tl.reshape(x, (ROWS // B, 8, 2, 4, COLUMNS))
    elif AXIS == 1:
        return tl.reshape(x, (ROWS, COLUMNS // B, B))
    else:
        return tl.reshape(x, (ROWS // B, B, COLUMNS))


@triton.jit
def of_blocks(x, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One number a block, [ROWS / B, COLUMNS], [ROWS, COLUMNS / B] or [ROWS / B, COLUMNS / B], as in_blocks' axes."""
    B: tl.constexpr = Q.value.BLOCK
    if Q.value.SQUARE:
        return tl.reshape(x, (ROWS // B, 1, COLUMNS // B, 1))
    elif Q.value.FORMAT == "hifp4":
        if AXIS == 1:
            return tl.reshape(x, (ROWS, COLUMNS // B, 1, 1, 1))
        else:
            return tl.reshape(x, (ROWS // B, 1, 1, 1, COLUMNS))
    elif AXIS == 1:
        return tl.reshape(x, (ROWS, COLUMNS // B, 1))
    else:
        return tl.reshape(x, (ROWS // B, 1, COLUMNS))


@triton.jit
def out_of_blocks(x, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inverse of of_blocks."""
    B: tl.constexpr = Q.value.BLOCK
    if Q.value.SQUARE:
        return tl.reshape(x, (ROWS // B, COLUMNS // B))
    elif AXIS == 1:
        return tl.reshape(x, (ROWS, COLUMNS // B))
    else:
        return tl.reshape(x, (ROWS // B, COLUMNS))


@triton.jit
def extent_in_blocks(x, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A number of the tensor [1, 1], or one of each row, as it broadcasts against in_blocks."""
    if Q.value.BLOCK == 0:
        return x
    elif Q.value.SQUARE:
        return tl.reshape(x, (1, 1, 1, 1))
    elif Q.value.EXTENT == "tensor":
        return tl.reshape(x, (1, 1, 1))
    elif AXIS == 1:
        return tl.reshape(x, (ROWS, 1, 1))
    else:
        return tl.reshape(x, (1, 1, COLUMNS))


@triton.jit
def amax_of_blocks(magnitude, AXIS: tl.constexpr, Q: tl.constexpr):
    """Of bits in blocks; axes stay. Bits of magnitudes ascend as the magnitudes do, NaN above Inf above all others."""
    if Q.value.SQUARE:
        return tl.max(tl.max(magnitude, axis=3, keep_dims=True), axis=1, keep_dims=True)
    elif AXIS == 1:
        return tl.max(magnitude, axis=2, keep_dims=True)
    else:
        return tl.max(magnitude, axis=1, keep_dims=True)


@triton.jit
def counted(magnitude, Q: tl.constexpr):
    """Bits that have a part in the largest magnitude of the spec's extent."""
    if Q.value.FINITE:
        return tl.where(magnitude < EXPONENT, magnitude, 0)
    else:
        return magnitude


@triton.jit
def amax_of_extent(bits, amax_ptr, at, exists, AXIS: tl.constexpr, Q: tl.constexpr, WHOLE: tl.constexpr):
    """The bits of the largest magnitude of the tensor, [1, 1], or of each row, which broadcasts against the tile [ROWS,
    COLUMNS]: found here if the rows lie in it as a WHOLE, else read at `at`, where it exists."""
    if Q.value.EXTENT == "none":
        return 0
    elif Q.value.EXTENT == "row" and WHOLE:
        return tl.max(counted(bits & MAGNITUDE, Q), axis=AXIS, keep_dims=True)
    else:
        return tl.load(amax_ptr + at, mask=exists, other=0)
