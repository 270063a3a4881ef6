"""What the kernels of fused attention share: tiles of the operands, scores, probabilities and their quantization.

A head's width D is the sum of a power of two HEAD and a padded rest REST (MLA's 192 = 128 + 64), so that no products of
padding are computed; REST is 0 for powers of two, and then the second tile of each pair is the first, unused.
BITS: bf16 comes and goes as its bits and is computed with as fp32, in which its products are exact. This is for
Triton's interpreter, which neither rounds nor multiplies bf16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.bits import bits_of, float_of, load_bits, noise_of_elements, noise_of_fours, store_bits
from quantctl.kernels.triton.formats import quantize_dequantize_tile


@triton.jit
def _places(pointer, first, stride, count, first_column: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
            COLUMNS: tl.constexpr):  # fmt: skip
    """Pointers to a tile of a matrix [count, D], and which of it exist: ROWS rows from `first` on, COLUMNS columns."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = first_column + tl.arange(0, COLUMNS)[None, :]
    # one product of 64 bits a tile: within a tile the offsets are the same in every step (launcher: below 2^31)
    pointers = pointer + tl.cast(first, tl.int64) * stride + (rows * stride + columns)
    return pointers, (rows < count - first) & (columns < D)


@triton.jit
def load_rows(pointer, first, stride, count, first_column: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
              COLUMNS: tl.constexpr, ALL_ROWS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    """A tile [ROWS, COLUMNS] of a matrix [count, D]; zeros where it ends. ALL_ROWS: it does not end within the tile."""
    pointers, exist = _places(pointer, first, stride, count, first_column, D, ROWS, COLUMNS)
    if BITS:
        return float_of(load_bits(pointers, exist, True))
    elif ALL_ROWS and first_column + COLUMNS <= D:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=exist, other=0.0)


@triton.jit
def load_head(pointer, first, stride, count, D: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr,
              ROWS: tl.constexpr, ALL_ROWS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    head = load_rows(pointer, first, stride, count, 0, D, ROWS, HEAD, ALL_ROWS, BITS)
    rest = head
    if REST:
        rest = load_rows(pointer, first, stride, count, HEAD, D, ROWS, REST, ALL_ROWS, BITS)
    return head, rest


@triton.jit
def store_rows(pointer, first, stride, count, first_column: tl.constexpr, x, D: tl.constexpr, ROWS: tl.constexpr,
               COLUMNS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    pointers, exist = _places(pointer, first, stride, count, first_column, D, ROWS, COLUMNS)
    store_bits(pointers, bits_of(x), exist, BITS, False)


@triton.jit
def operand(x, DTYPE: tl.constexpr, BITS: tl.constexpr):
    """fp32 as an operand of a product: rounded half to even to the tensors' dtype."""
    if BITS:
        bits = bits_of(x)
        return float_of((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536)
    else:
        return x.to(DTYPE)


@triton.jit
def multiply(a, b, sum):
    """sum + a b: fp32 operands keep their 24 bits."""
    return tl.dot(a, b, sum, input_precision="ieee")


@triton.jit
def scores(a, a_rest, b, b_rest, M: tl.constexpr, N: tl.constexpr, REST: tl.constexpr):
    """a b^T without any factor: a [M, D] and b [N, D] as HEAD and REST columns."""
    x = multiply(a, tl.trans(b), tl.zeros((M, N), tl.float32))
    if REST:
        x = multiply(a_rest, tl.trans(b_rest), x)
    return x


@triton.jit
def probabilities(x, row_max, row_rcp, factor):
    """P = exp2((x - max) * factor) * (1 / sum): exactly 1 / sum at the maximum."""
    return tl.exp2((x - row_max) * factor) * row_rcp


@triton.jit
def masked(x, first_row, first_key, key_count, value, CAUSAL: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """x where a row may see a key, else value."""
    keys = first_key + tl.arange(0, KEYS)[None, :]
    allowed = keys < key_count
    if CAUSAL:
        allowed = allowed & (keys <= first_row + tl.arange(0, ROWS)[:, None])
    return tl.where(allowed, x, value)


@triton.jit
def draw_noise(first_index, first_row, first_key, key_count, draw, ROWS: tl.constexpr, KEYS: tl.constexpr,
               FOURS: tl.constexpr):  # fmt: skip
    """The noise [ROWS, KEYS] of the probabilities from (first_row, first_key) on; first_index is the matrix's own.

    draw: seed_low, seed_high, call_low, call_high, rank. FOURS: key_count is a multiple of four.
    """
    rows = (first_row + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    index = first_index + rows * key_count + first_key
    if FOURS:
        counter = index // 4 + tl.arange(0, KEYS // 4)[None, :]
        return noise_of_fours(counter, draw[0], draw[1], draw[2], draw[3], draw[4], ROWS, KEYS)
    else:
        index = index + tl.arange(0, KEYS)[None, :]
        return noise_of_elements(index, draw[0], draw[1], draw[2], draw[3], draw[4])


@triton.jit
def amax_of_probabilities(amax_ptr, row_rcp, Q: tl.constexpr, DTYPE: tl.constexpr, BITS: tl.constexpr):
    """The bits of the largest of all probabilities [1, 1], or of each row's [ROWS, 1]: what its largest score has."""
    if Q.value.EXTENT == "tensor":
        return tl.load(amax_ptr + tl.zeros((1, 1), tl.int32))
    elif Q.value.EXTENT == "row":
        return bits_of(operand(row_rcp, DTYPE, BITS).to(tl.float32))[:, None]
    else:
        return 0


@triton.jit
def quantized(p, noise, amax, Q: tl.constexpr, M: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
              BITS: tl.constexpr):  # fmt: skip
    """Probabilities, fp32 [M, N], as the product takes them: in the tensors' dtype, then through the format in blocks
    of keys. amax: as amax_of_probabilities gives it."""
    p = operand(p, DTYPE, BITS)
    if Q.value.FORMAT != "none":
        bits = quantize_dequantize_tile(bits_of(p.to(tl.float32)), noise, amax, 1, Q, M, N)
        p = operand(float_of(bits), DTYPE, BITS)
    return p
