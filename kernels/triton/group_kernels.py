"""The kernels of rows in groups: quantize-dequantize, and largest magnitudes. grouped.py launches them.

A tile belongs to one group, and each group's first row starts a tile. Which group a program works for is read from
where the groups' tiles end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.amax import add_amax
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.hadamard import transformed
from quantctl.kernels.triton.qdq import tile_values


@triton.jit
def group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size, x_row, TABLE: tl.constexpr,
               GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """This program's group, rows [ROWS, 1] of the whole, which of them are the group's, first column, columns
    [1, COLUMNS], which elements are x's, pointers to them."""
    n_tiles = tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0) // n_tiles
    lanes = tl.arange(0, GROUPS)
    tile_ends = tl.load(tile_ends_ptr + lanes, mask=lanes < groups, other=0x7FFFFFFF)
    group = tl.sum((tile_ends <= tile).to(tl.int32), axis=0)
    found, behind_another = group < groups, (group > 0) & (group < groups)
    first_tile = tl.load(tile_ends_ptr + group - 1, mask=behind_another, other=0)
    # int64 before the first product with a stride: tensors have more than 2^31 elements
    start = tl.load(ends_ptr + group - 1, mask=behind_another, other=0).to(tl.int64)
    end = tl.load(ends_ptr + group, mask=found, other=0).to(tl.int64)
    m = (start + (tile - first_tile).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    n_start = (tl.program_id(0) % n_tiles).to(tl.int64) * COLUMNS
    n = (n_start + tl.arange(0, COLUMNS))[None, :]
    exists = m < end
    if TABLE:
        address = tl.load(table_ptr + group, mask=found, other=0)
        base = tl.multiple_of(address.to(x_ptr.dtype), 16)
        pointers = base + ((m - start) * x_row + n)
    else:
        pointers = x_ptr + (m * x_row + n)
    return group, m, exists, n_start, n, exists & (n < n_size), pointers


@triton.jit
def group_row_of(group, groups, m, exists, n, n_size, AXIS: tl.constexpr, Q: tl.constexpr):
    """amax.row_of for a tile of a group: what tensors have is the group's, and so is a row along AXIS 0."""
    if Q.value.EXTENT != "row":
        at = tl.zeros((1, 1), tl.int32) + group
        return at, at < groups
    elif AXIS == 1:
        return m, exists
    else:
        return group.to(tl.int64) * n_size + n, (n < n_size) & (group < groups)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "signs_low_last",
                               "signs_high_last", "call_low_first", "call_high_first", "signs_low_first",
                               "signs_high_first", "groups"])  # fmt: skip
def grouped_qdq_kernel(x_ptr, table_ptr, last_ptr, first_ptr, ends_ptr, tile_ends_ptr, amax_last_ptr, amax_first_ptr,
                       groups, n_size, x_row, seed_low, seed_high, rank, call_low_last, call_high_last, signs_low_last,
                       signs_high_last, call_low_first, call_high_first, signs_low_first, signs_high_first,
                       TABLE: tl.constexpr, LAST: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
                       FOURS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
                       COLUMNS: tl.constexpr):  # fmt: skip
    """x -> its values in blocks along the columns (LAST), along the rows of each group (FIRST), or both.

    x is [rows, n_size] with x_row elements between rows or, with TABLE, such a matrix a group at the address that
    the table has for it. The results are [rows of all groups, n_size], contiguous. amax_*: as grouped_amax_kernel
    gives them.
    """
    tl.static_assert(LAST or FIRST)
    group, m, exists, n_start, n, mask, pointers = group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                              x_row, TABLE, GROUPS, ROWS, COLUMNS)  # fmt: skip
    bits = load_bits(pointers, mask, Q.value.BF16)
    out = m * n_size + n
    if LAST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 1, Q)
        values = tile_values(bits, amax_last_ptr, at, there, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_last, call_high_last, signs_low_last, signs_high_last, 1, Q, False, FOURS, ROWS,
                             COLUMNS)  # fmt: skip
        store_bits(last_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)
    if FIRST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 0, Q)
        values = tile_values(bits, amax_first_ptr, at, there, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_first, call_high_first, signs_low_first, signs_high_first, 0, Q, False, FOURS,
                             ROWS, COLUMNS)  # fmt: skip
        store_bits(first_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "signs_low_last", "signs_high_last", "signs_low_first",
                               "signs_high_first", "groups"])  # fmt: skip
def grouped_amax_kernel(x_ptr, table_ptr, last_ptr, first_ptr, ends_ptr, tile_ends_ptr, groups, n_size, x_row,
                        seed_low, seed_high, rank, signs_low_last, signs_high_last, signs_low_first, signs_high_first,
                        TABLE: tl.constexpr, LAST: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
                        GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The bits of the largest magnitudes behind the transform, into int32 that are 0 before: [groups], of rows along
    the columns (LAST) [rows], of rows along the rows of each group (FIRST) [groups, n_size]."""
    group, m, exists, _, n, mask, pointers = group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                        x_row, TABLE, GROUPS, ROWS, COLUMNS)  # fmt: skip
    bits = load_bits(pointers, mask, Q.value.BF16)
    if LAST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 1, Q)
        add_amax(transformed(bits, seed_low, seed_high, rank, signs_low_last, signs_high_last, 1, Q, ROWS, COLUMNS),
                 last_ptr, at, there, 1, Q)  # fmt: skip
    if FIRST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 0, Q)
        add_amax(transformed(bits, seed_low, seed_high, rank, signs_low_first, signs_high_first, 0, Q, ROWS, COLUMNS),
                 first_ptr, at, there, 0, Q)  # fmt: skip
