"""The kernels of packing: tiles to values and codes in one pass, and back. packed.py launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.amax import row_of
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.blocks import amax_of_extent
from quantctl.kernels.triton.codes import decode_tile, encode_tile
from quantctl.kernels.triton.hadamard import transformed
from quantctl.kernels.triton.qdq import tile_noise, tile_values


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "signs_low_last",
                               "signs_high_last", "call_low_first", "call_high_first", "signs_low_first",
                               "signs_high_first"])  # fmt: skip
def pack_kernel(x_ptr, values_ptr, elements_ptr, scales_ptr, amax_last_ptr, amax_first_ptr, table_ptr, m_size, n_size,
                row_bytes, seed_low, seed_high, rank, call_low_last, call_high_last, signs_low_last, signs_high_last,
                call_low_first, call_high_first, signs_low_first, signs_high_first, AXIS: tl.constexpr,
                Q: tl.constexpr, VALUES: tl.constexpr, WHOLE: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr,
                FOURS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [m_size, n_size] -> its values in blocks along n, if VALUES; its codes and scales in blocks along AXIS.

    COUNT codes fill WIDTH bytes; a row of codes has row_bytes. *_first: of AXIS 0. amax_*: as amax_kernel gives them,
    or, if a tile holds WHOLE rows, room for them.
    """
    tl.static_assert(COUNT * Q.value.BITS == WIDTH * 8)
    tl.static_assert(COLUMNS % COUNT == 0)
    n_tiles = tl.cdiv(n_size, COLUMNS)
    m_tile, n_tile = (tl.program_id(0) // n_tiles).to(tl.int64), (tl.program_id(0) % n_tiles).to(tl.int64)
    m = (m_tile * ROWS + tl.arange(0, ROWS))[:, None]
    n = (n_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (m < m_size) & (n < n_size)
    bits = load_bits(x_ptr + (m * n_size + n), mask, Q.value.BF16)
    n_start = n_tile * COLUMNS
    if VALUES:
        at, exists = row_of(0, m, n, m_size, n_size, 1, Q)
        values = tile_values(bits, amax_last_ptr, at, exists, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_last, call_high_last, signs_low_last, signs_high_last, 1, Q, WHOLE, FOURS, ROWS,
                             COLUMNS)  # fmt: skip
        store_bits(values_ptr + (m * n_size + n), values, mask, Q.value.BF16, Q.value.EXACT)
    at, exists = row_of(0, m, n, m_size, n_size, AXIS, Q)
    if AXIS == 1:
        codes, scales, amax = tile_codes(bits, amax_last_ptr, at, exists, table_ptr, m, n, n_start, n_size, seed_low,
                                         seed_high, rank, call_low_last, call_high_last, signs_low_last,
                                         signs_high_last, 1, Q, WHOLE, FOURS, ROWS, COLUMNS)  # fmt: skip
        if WHOLE:
            tl.store(amax_last_ptr + at, amax, mask=exists)
    else:
        codes, scales, amax = tile_codes(bits, amax_first_ptr, at, exists, table_ptr, m, n, n_start, n_size, seed_low,
                                         seed_high, rank, call_low_first, call_high_first, signs_low_first,
                                         signs_high_first, 0, Q, WHOLE, FOURS, ROWS, COLUMNS)  # fmt: skip
    store_codes(elements_ptr, codes, m, m < m_size, n_tile, row_bytes, Q.value.BITS, COUNT, WIDTH, ROWS, COLUMNS)
    if Q.value.BLOCK != 0:
        at, mask = scale_positions(m, m < m_size, m_tile, n_tile, tl.cdiv(m_size, Q.value.BLOCK), n_size, AXIS, Q, ROWS,
                                   COLUMNS)  # fmt: skip
        tl.store(scales_ptr + at, scales.to(scales_ptr.dtype.element_ty), mask=mask)


@triton.jit
def tile_codes(bits, amax_ptr, at, exists, table_ptr, m, n, n_start, n_size, seed_low, seed_high, rank, call_low,
               call_high, signs_low, signs_high, AXIS: tl.constexpr, Q: tl.constexpr, WHOLE: tl.constexpr,
               FOURS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits of a tile of a contiguous matrix -> codes and scales in blocks along AXIS, as encode_tile; largest
    magnitudes, as amax_of_extent."""
    bits = transformed(bits, seed_low, seed_high, rank, signs_low, signs_high, AXIS, Q, ROWS, COLUMNS)
    noise = 0.0
    if Q.value.ROUND == "stochastic":
        noise = tile_noise(0, m, n, n_start, n_size, 1, seed_low, seed_high, rank, call_low, call_high, FOURS, ROWS,
                           COLUMNS)  # fmt: skip
    amax = amax_of_extent(bits, amax_ptr, at, exists, AXIS, Q, WHOLE)
    codes, scales = encode_tile(bits, noise, amax, table_ptr, AXIS, Q, ROWS, COLUMNS)
    return codes, scales, amax


@triton.jit
def store_codes(elements_ptr, codes, m, exists, n_tile, row_bytes, BITS: tl.constexpr, COUNT: tl.constexpr,
                WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Codes [ROWS, COLUMNS] into the bytes of the rows m [ROWS, 1] that exist."""
    group = (n_tile * (COLUMNS // COUNT) + tl.arange(0, COLUMNS // COUNT))[None, :]
    # beyond the last column there are zeros, whose codes fill up the last group
    words = tl.sum(tl.reshape(codes, (ROWS, COLUMNS // COUNT, COUNT)) << (BITS * tl.arange(0, COUNT)), axis=2)
    for i in tl.static_range(WIDTH):
        pointers = elements_ptr + m * row_bytes + group * WIDTH + i
        tl.store(pointers, (words >> (8 * i)).to(tl.uint8), mask=exists & (group < row_bytes // WIDTH))


@triton.jit
def load_codes(elements_ptr, m, exists, n_tile, row_bytes, BITS: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr,
               ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """What store_codes stored; 0 for rows that do not exist."""
    group = (n_tile * (COLUMNS // COUNT) + tl.arange(0, COLUMNS // COUNT))[None, :]
    words = tl.zeros((ROWS, COLUMNS // COUNT), tl.int32)
    for i in tl.static_range(WIDTH):
        pointers = elements_ptr + m * row_bytes + group * WIDTH + i
        byte = tl.load(pointers, mask=exists & (group < row_bytes // WIDTH), other=0)
        words |= byte.to(tl.int32) << (8 * i)
    codes = (words[:, :, None] >> (BITS * tl.arange(0, COUNT))) & ((1 << BITS) - 1)
    return tl.reshape(codes, (ROWS, COLUMNS))


@triton.jit
def scale_positions(m, exists, m_tile, n_tile, m_blocks, n_size, AXIS: tl.constexpr, Q: tl.constexpr,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Where the block scales of tile (m_tile, n_tile) lie, and which of them exist.

    They are m_blocks rows along the rows (AXIS 0) and of squares, or in each of the rows m [ROWS, 1] that exist.
    """
    B: tl.constexpr = Q.value.BLOCK
    if Q.value.SQUARE or AXIS == 0:
        SIZE: tl.constexpr = B if Q.value.SQUARE else 1
        block = (m_tile * (ROWS // B) + tl.arange(0, ROWS // B))[:, None]
        n = (n_tile * (COLUMNS // SIZE) + tl.arange(0, COLUMNS // SIZE))[None, :]
        return block * tl.cdiv(n_size, SIZE) + n, (block < m_blocks) & (n * SIZE < n_size)
    else:
        n = (n_tile * (COLUMNS // B) + tl.arange(0, COLUMNS // B))[None, :]
        return m * tl.cdiv(n_size, B) + n, exists & (n * B < n_size)


@triton.jit
def unpack_kernel(elements_ptr, scales_ptr, kept_ptr, table_ptr, values_ptr, m_size, n_size, row_bytes,
                  AXIS: tl.constexpr, Q: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr):  # fmt: skip
    """What pack_kernel stored of x -> its values in blocks along AXIS. kept_ptr: what is kept of the tensor or rows."""
    n_tiles = tl.cdiv(n_size, COLUMNS)
    m_tile, n_tile = (tl.program_id(0) // n_tiles).to(tl.int64), (tl.program_id(0) % n_tiles).to(tl.int64)
    m = (m_tile * ROWS + tl.arange(0, ROWS))[:, None]
    n = (n_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    codes = load_codes(elements_ptr, m, m < m_size, n_tile, row_bytes, Q.value.BITS, COUNT, WIDTH, ROWS, COLUMNS)
    kept, scales = 1.0, 0
    if Q.value.EXTENT != "none":
        at, exists = row_of(0, m, n, m_size, n_size, AXIS, Q)
        kept = tl.load(kept_ptr + at, mask=exists, other=1.0)
    if Q.value.BLOCK != 0:
        at, mask = scale_positions(m, m < m_size, m_tile, n_tile, tl.cdiv(m_size, Q.value.BLOCK), n_size, AXIS, Q, ROWS,
                                   COLUMNS)  # fmt: skip
        scales = load_scales(scales_ptr, at, mask)
    values = decode_tile(codes, scales, kept, table_ptr, AXIS, Q, ROWS, COLUMNS)
    mask = (m < m_size) & (n < n_size)
    store_bits(values_ptr + (m * n_size + n), values, mask, Q.value.BF16, Q.value.EXACT)


@triton.jit
def load_scales(scales_ptr, at, mask):
    """Bytes and words as int32, factors as they are."""
    scales = tl.load(scales_ptr + at, mask=mask, other=0)
    if scales_ptr.dtype.element_ty == tl.float32:
        return scales
    else:
        return scales.to(tl.int32)
