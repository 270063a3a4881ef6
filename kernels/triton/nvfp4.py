"""NVFP4 in Triton: nvfp4.py and four_over_six.py on magnitudes in blocks."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.formats import nvfp4 as reference
from quantctl.kernels.formats.four_over_six import SCALE_LIMIT
from quantctl.kernels.triton.bits import EXPONENT, float_of, round_to_element
from quantctl.kernels.triton.blocks import of_blocks
from quantctl.kernels.triton.scaled import scaled

E4M3_LARGEST = tl.constexpr(448.0)
FP32_LARGEST = tl.constexpr(3.4028234663852886e38)
LARGEST = tl.constexpr(6.0 * 448.0)
LARGEST_ENCODE = tl.constexpr(reference.LARGEST_ENCODE)
LIMIT = tl.constexpr(6.0 * SCALE_LIMIT)


@triton.jit
def _quotient(number, x):
    """number / x, rounded as IEEE 754 has it: the plain division is not, on a GPU."""
    return tl.div_rn(tl.full(x.shape, number, tl.float32), x)


@triton.jit
def _encode(extent, Q: tl.constexpr):
    """s_enc of a tensor or rows whose largest finite magnitudes have the bits extent."""
    x = float_of(extent)
    if Q.value.SCALE == "divide":
        encode = tl.minimum(_quotient(LARGEST, tl.where(x == 0.0, 1.0, x)), LARGEST_ENCODE)
        return tl.where(x == 0.0, 1.0, encode)
    elif Q.value.SCALE == "multiply":
        encode = tl.minimum(_quotient(LARGEST, tl.where(x == 0.0, 1.0, x)), FP32_LARGEST)
        return tl.where(x == 0.0, FP32_LARGEST, encode)
    else:
        encode = tl.minimum(_quotient(LIMIT, tl.where(x == 0.0, 1.0, x)), FP32_LARGEST)
        return tl.where(x == 0.0, FP32_LARGEST, encode)


@triton.jit
def _e4m3(x):
    return round_to_element(x, E4M3_LARGEST, 0.0, 3, -6, "nearest")


@triton.jit
def _inverse(b, decode):
    """1 / (b * s_dec), at most the largest number."""
    product = b * decode
    inverse = _quotient(1.0, tl.where(product == 0.0, 1.0, product))
    return tl.where(product == 0.0, FP32_LARGEST, tl.minimum(inverse, FP32_LARGEST))


@triton.jit
def _sum_of_sixteen(errors):
    """[n, 16] -> [n], one after the other."""
    N: tl.constexpr = errors.shape[0]
    even, odd = tl.split(tl.reshape(errors, (N, 8, 2)))
    e0, e2 = tl.split(tl.reshape(even, (N, 4, 2)))
    e1, e3 = tl.split(tl.reshape(odd, (N, 4, 2)))
    e00, e04 = tl.split(tl.reshape(e0, (N, 2, 2)))
    e01, e05 = tl.split(tl.reshape(e1, (N, 2, 2)))
    e02, e06 = tl.split(tl.reshape(e2, (N, 2, 2)))
    e03, e07 = tl.split(tl.reshape(e3, (N, 2, 2)))
    x0, x8 = tl.split(e00)
    x1, x9 = tl.split(e01)
    x2, x10 = tl.split(e02)
    x3, x11 = tl.split(e03)
    x4, x12 = tl.split(e04)
    x5, x13 = tl.split(e05)
    x6, x14 = tl.split(e06)
    x7, x15 = tl.split(e07)
    sum = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7
    return sum + x8 + x9 + x10 + x11 + x12 + x13 + x14 + x15


@triton.jit
def _error(errors, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of each block, as in_blocks has their axes; a square's rows lie along AXIS."""
    if Q.value.SQUARE:
        # [16 rows of a square, squares, 16 elements of a row]
        rows = tl.permute(errors, (1, 0, 2, 3) if AXIS == 1 else (3, 0, 2, 1))
        BLOCKS: tl.constexpr = ROWS * COLUMNS // 256
        sums = _sum_of_sixteen(tl.reshape(rows, (16 * BLOCKS, 16)))
        # of two numbers there is one sum
        sums = tl.sum(tl.reshape(sums, (2, 8 * BLOCKS)), axis=0)
        sums = tl.sum(tl.reshape(sums, (2, 4 * BLOCKS)), axis=0)
        sums = tl.sum(tl.reshape(sums, (2, 2 * BLOCKS)), axis=0)
        sums = tl.sum(tl.reshape(sums, (2, BLOCKS)), axis=0)
        return of_blocks(sums, AXIS, Q, ROWS, COLUMNS)
    else:
        rows = errors
        if AXIS == 0:
            rows = tl.permute(errors, (0, 2, 1))
        sums = _sum_of_sixteen(tl.reshape(rows, (ROWS * COLUMNS // 16, 16)))
        return of_blocks(sums, AXIS, Q, ROWS, COLUMNS)


@triton.jit
def _candidate(a, wanted, extent, encode, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr,
               COLUMNS: tl.constexpr):  # fmt: skip
    """Elements, b and error under the scale that is wanted."""
    b = _e4m3(wanted)
    inverse = _inverse(b, _quotient(1.0, encode))
    q = round_to_element(tl.minimum(a * inverse, 6.0), 6.0, 0.0, 1, 0, Q.value.ROUND)
    product = q * b * float_of(extent)
    difference = tl.div_rn(product, tl.full(product.shape, LIMIT, tl.float32)) - a
    errors = difference * difference if Q.value.SCALE == "4over6_mse" else tl.abs(difference)
    return q, b, _error(errors, AXIS, Q, ROWS, COLUMNS)


@triton.jit
def nvfp4(a, amax, extent, noise, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Elements and b of blocks whose largest magnitudes have the bits amax; NaN where that is not finite.

    extent: the bits of the largest finite magnitude of the tensor or the rows, which broadcast.
    """
    SCALE: tl.constexpr = Q.value.SCALE
    encode = _encode(extent, Q)
    bounded = float_of(tl.where(amax < EXPONENT, amax, 0))
    if SCALE == "divide" or SCALE == "multiply":
        if SCALE == "divide":
            b = _e4m3(tl.div_rn(bounded, tl.full(amax.shape, 6.0, tl.float32)) * encode)
            product = tl.where(b == 0.0, 1.0, b * _quotient(1.0, encode))
            inverse = tl.where(b == 0.0, 0.0, _quotient(1.0, product))
        else:
            b = _e4m3(bounded * (encode * (1 / 6)))
            inverse = _inverse(b, _quotient(1.0, encode))
        y = a * inverse
        if Q.value.HEADROOM != 1.0:
            y = y * Q.value.HEADROOM
        elements = round_to_element(tl.minimum(y, 6.0), 6.0, noise, 1, 0, Q.value.ROUND)
    else:
        wanted = tl.div_rn(bounded, tl.full(amax.shape, 6.0, tl.float32)) * encode
        six, b_six, error_six = _candidate(a, wanted, extent, encode, AXIS, Q, ROWS, COLUMNS)
        four, b_four, error_four = _candidate(a, wanted * 1.5, extent, encode, AXIS, Q, ROWS, COLUMNS)
        picks_four = error_four < error_six
        elements, b = tl.where(picks_four, four, six), tl.where(picks_four, b_four, b_six)
    return elements, tl.where(amax < EXPONENT, b, float("nan"))


@triton.jit
def of_tensor(extent, Q: tl.constexpr):
    """What is kept of a tensor or row: s_dec, or its largest finite magnitude where values are made of that."""
    if Q.value.SCALE == "divide":
        return _quotient(1.0, _encode(extent, Q))
    else:
        return float_of(extent)


@triton.jit
def nvfp4_values(elements, b, of_tensor, Q: tl.constexpr):
    SCALE: tl.constexpr = Q.value.SCALE
    if SCALE == "divide":
        elements = elements * b
        factor = of_tensor
        if Q.value.HEADROOM != 1.0:
            factor = factor * Q.value.BEHIND
    else:
        factor = b * of_tensor * (1 / (LARGEST if SCALE == "multiply" else LIMIT))
        if Q.value.HEADROOM != 1.0:
            factor = factor * Q.value.BEHIND
    return tl.where(b == b, scaled(elements, factor, Q.value.DTYPE_LARGEST), float("nan"))
