"""Packing on a GPU: one pass gives a matrix through its format along its rows, and its codes along either axis.

The twin of packed.py, equal in every bit. A matrix is [rows, columns], contiguous; a program takes a tile of it, whole
blocks of either direction, as in triton_qdq.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.codes import GROUPS
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.packed import Layout, Packed, nbytes, shapes
from quantctl.kernels.strides import matrices
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.codes import decode_tile, encode_tile
from quantctl.kernels.triton.constants import constants
from quantctl.kernels.triton.formats import quantize_dequantize_tile
from quantctl.kernels.triton.qdq import COLUMNS, ROWS, draw_words, raw, tensor_scales, tile_noise
from quantctl.spec import FormatSpec


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first"])  # fmt: skip
def pack_kernel(x_ptr, values_ptr, elements_ptr, scales_ptr, encode_ptr, decode_ptr, table_ptr, m_size, n_size,
                row_bytes, seed_low, seed_high, rank, call_low_last, call_high_last, call_low_first, call_high_first,
                AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, COUNT: tl.constexpr,
                WIDTH: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr,
                MAX_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr,
                SCALED: tl.constexpr, DTYPE_LARGEST: tl.constexpr, BF16: tl.constexpr, EXACT: tl.constexpr,
                FOURS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [m_size, n_size] -> its values in blocks along n, its codes and scales in blocks along AXIS.

    COUNT codes of BITS bits fill WIDTH bytes; a row of codes has row_bytes. call_*_first: the draw of AXIS 0.
    """
    tl.static_assert(COUNT * BITS == WIDTH * 8)
    tl.static_assert(COLUMNS % COUNT == 0)
    n_tiles = tl.cdiv(n_size, COLUMNS)
    m_tile, n_tile = (tl.program_id(0) // n_tiles).to(tl.int64), (tl.program_id(0) % n_tiles).to(tl.int64)
    m = (m_tile * ROWS + tl.arange(0, ROWS))[:, None]
    n = (n_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (m < m_size) & (n < n_size)
    at = m * n_size + n
    bits = load_bits(x_ptr + at, mask, BF16)
    encode, decode = 1.0, 1.0
    if SCALED:
        encode, decode = tl.load(encode_ptr), tl.load(decode_ptr)
    values, codes, scales = values_and_codes(
        bits, m, n, n_tile, n_size, encode, decode, table_ptr, seed_low, seed_high, rank, call_low_last, call_high_last,
        call_low_first, call_high_first, AXIS, FORMAT, BLOCK, BITS, MANTISSA_BITS, MIN_EXPONENT, MAX_EXPONENT, LARGEST,
        RULE, ROUND, SCALED, DTYPE_LARGEST, FOURS, ROWS, COLUMNS)  # fmt: skip
    store_bits(values_ptr + at, values, mask, BF16, EXACT)
    store_codes(elements_ptr, codes, m, m < m_size, n_tile, row_bytes, BITS, COUNT, WIDTH, ROWS, COLUMNS)
    if FORMAT != "hifp8":
        at, mask = scale_positions(m, m < m_size, m_tile, n_tile, tl.cdiv(m_size, BLOCK), n_size, AXIS, BLOCK, ROWS,
                                   COLUMNS)  # fmt: skip
        tl.store(scales_ptr + at, scales.to(tl.uint8), mask=mask)


@triton.jit
def values_and_codes(bits, m, n, n_tile, n_size, encode, decode, table_ptr, seed_low, seed_high, rank, call_low_last,
                     call_high_last, call_low_first, call_high_first, AXIS: tl.constexpr, FORMAT: tl.constexpr,
                     BLOCK: tl.constexpr, BITS: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr,
                     MAX_EXPONENT: tl.constexpr, LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr,
                     SCALED: tl.constexpr, DTYPE_LARGEST: tl.constexpr, FOURS: tl.constexpr, ROWS: tl.constexpr,
                     COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits of a tile -> those of its values along the columns; codes and scales along AXIS."""
    noise = 0.0
    if ROUND == "stochastic":
        noise = tile_noise(0, m, n, n_tile * COLUMNS, n_size, 1, seed_low, seed_high, rank, call_low_last,
                           call_high_last, FOURS, ROWS, COLUMNS)  # fmt: skip
    values = quantize_dequantize_tile(bits, noise, encode, decode, 1, FORMAT, BLOCK, MANTISSA_BITS, MIN_EXPONENT,
                                      MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, DTYPE_LARGEST, ROWS,
                                      COLUMNS)  # fmt: skip
    if ROUND == "stochastic" and AXIS == 0:
        noise = tile_noise(0, m, n, n_tile * COLUMNS, n_size, 1, seed_low, seed_high, rank, call_low_first,
                           call_high_first, FOURS, ROWS, COLUMNS)  # fmt: skip
    codes, scales = encode_tile(bits, noise, encode, decode, table_ptr, AXIS, FORMAT, BLOCK, BITS, MANTISSA_BITS,
                                MIN_EXPONENT, MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, ROWS, COLUMNS)  # fmt: skip
    return values, codes, scales


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
def scale_positions(m, exists, m_tile, n_tile, m_blocks, n_size, AXIS: tl.constexpr, BLOCK: tl.constexpr,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Where the block scales of tile (m_tile, n_tile) lie, and which of them exist.

    They are m_blocks rows along the rows (AXIS 0), or in each of the rows m [ROWS, 1] that exist.
    """
    if AXIS == 0:
        block = (m_tile * (ROWS // BLOCK) + tl.arange(0, ROWS // BLOCK))[:, None]
        n = (n_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        return block * n_size + n, (block < m_blocks) & (n < n_size)
    else:
        n = (n_tile * (COLUMNS // BLOCK) + tl.arange(0, COLUMNS // BLOCK))[None, :]
        return m * tl.cdiv(n_size, BLOCK) + n, exists & (n * BLOCK < n_size)


@triton.jit
def unpack_kernel(elements_ptr, scales_ptr, decode_ptr, table_ptr, values_ptr, m_size, n_size, row_bytes,
                  AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
                  COUNT: tl.constexpr, WIDTH: tl.constexpr, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr,
                  SCALED: tl.constexpr, DTYPE_LARGEST: tl.constexpr, BF16: tl.constexpr, EXACT: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """What pack_kernel stored of x -> its values in blocks along AXIS."""
    n_tiles = tl.cdiv(n_size, COLUMNS)
    m_tile, n_tile = (tl.program_id(0) // n_tiles).to(tl.int64), (tl.program_id(0) % n_tiles).to(tl.int64)
    m = (m_tile * ROWS + tl.arange(0, ROWS))[:, None]
    n = (n_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    codes = load_codes(elements_ptr, m, m < m_size, n_tile, row_bytes, BITS, COUNT, WIDTH, ROWS, COLUMNS)
    decode, scales = 1.0, 0
    if SCALED:
        decode = tl.load(decode_ptr)
    if FORMAT != "hifp8":
        at, mask = scale_positions(m, m < m_size, m_tile, n_tile, tl.cdiv(m_size, BLOCK), n_size, AXIS, BLOCK, ROWS,
                                   COLUMNS)  # fmt: skip
        scales = tl.load(scales_ptr + at, mask=mask, other=0).to(tl.int32)
    values = decode_tile(codes, scales, decode, table_ptr, AXIS, FORMAT, BLOCK, BITS, MANTISSA_BITS, MIN_EXPONENT,
                         SCALED, DTYPE_LARGEST, ROWS, COLUMNS)  # fmt: skip
    store_bits(values_ptr + m * n_size + n, values, (m < m_size) & (n < n_size), BF16, EXACT)


@lru_cache(maxsize=64)
def packing(spec: FormatSpec) -> dict[str, int]:
    """The kernels' parameters for groups of codes."""
    bits = FORMATS[spec.format].bits(spec)
    count, width = GROUPS[bits]
    return {"BITS": bits, "COUNT": count, "WIDTH": width}


ENCODE_ONLY = ("MAX_EXPONENT", "LARGEST", "RULE", "ROUND")


def _grid(layout: Layout) -> tuple[tuple[int], dict[str, int]]:
    columns = max(min(COLUMNS, triton.next_power_of_2(layout.columns)), 32)
    return (triton.cdiv(layout.rows, ROWS) * triton.cdiv(layout.columns, columns),), {"ROWS": ROWS, "COLUMNS": columns}


def empty(x: Tensor, layout: Layout) -> Packed:
    """Room for the codes and scales of x; tensor scales are 1."""
    elements, scales, factors = shapes(layout)
    return Packed(
        x.new_empty(elements, dtype=torch.uint8),
        None if scales is None else x.new_empty(scales, dtype=torch.uint8),
        None if factors is None else x.new_ones(factors, dtype=torch.float32),
    )


def quantize_dequantize_packed(
    x: Tensor, layout: Layout, draws: tuple[Draw | None, Draw | None]
) -> tuple[Tensor, Packed]:
    """x [rows, columns], contiguous: its values along axis 1, and packed as `layout` says. Waits for no device.

    draws: that of the values and, for axis 0, that of the codes; of one seed and rank.
    """
    spec = layout.spec
    values, packed = torch.empty_like(x), empty(x, layout)
    if not x.numel():
        return values, packed
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        encode = decode = x
        if has_tensor_scale(spec):
            launch = matrices(x.shape, x.stride(), x.stride(), (0, 1))
            assert launch is not None  # a matrix is one
            encode, decode = tensor_scales(x, spec, launch)
            packed = packed._replace(tensor_scale=decode)
        grid, tile = _grid(layout)
        pack_kernel[grid](
            *(raw(x), raw(values), packed.elements, x if packed.block_scales is None else packed.block_scales),
            *(encode, decode, hifp8.codes_table(x) if spec.format == "hifp8" else x),
            *(layout.rows, layout.columns, packed.elements.shape[1]),
            **draw_words(("last", "first"), draws),
            AXIS=layout.axis,
            FOURS=layout.columns % 4 == 0,
            **packing(spec),
            **constants(spec, x.dtype),
            **tile,
            enable_fp_fusion=False,
        )
    return values, packed


def dequantize(packed: Packed, layout: Layout) -> Tensor:
    """The values of `packed`, [rows, columns]."""
    spec, elements = layout.spec, packed.elements
    values = elements.new_empty(layout.rows, layout.columns, dtype=layout.dtype)
    if not values.numel():
        return values
    parameters: dict[str, Any] = constants(spec, layout.dtype)
    with torch.cuda.device(elements.device) if elements.is_cuda else nullcontext():
        grid, tile = _grid(layout)
        unpack_kernel[grid](
            *(elements, elements if packed.block_scales is None else packed.block_scales),
            elements if packed.tensor_scale is None else packed.tensor_scale,
            raw(hifp8.values_table(elements)) if spec.format == "hifp8" else elements,
            *(raw(values), layout.rows, layout.columns, elements.shape[1]),
            AXIS=layout.axis,
            **packing(spec),
            **{name: value for name, value in parameters.items() if name not in ENCODE_ONLY},
            **tile,
            enable_fp_fusion=False,
        )
    return values


def bytes_moved(layout: Layout) -> tuple[int, int]:
    """Bytes of device memory that packing and unpacking have to read and write; of rows in groups, too.

    Packing reads x and writes its values and the packed matrix; a tensor scale reads x once more. Where the groups end
    is not counted.
    """
    values = layout.rows * layout.columns * layout.dtype.itemsize
    return (2 + has_tensor_scale(layout.spec)) * values + nbytes(layout), nbytes(layout) + values
