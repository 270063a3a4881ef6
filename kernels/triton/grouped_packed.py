"""Packing of rows in groups on a GPU: one pass gives all of them through their format along the rows' elements, and
their codes along the rows of each group or along the elements, too.

The twin of grouped_packed.py, equal in every bit: tiles and groups as in triton_grouped.py, bytes as in
triton_packed.py. A tile without a group writes the scales of zeros, so that no byte depends on what was there before.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.mx import BLOCK
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.kernels.operator import uncaptured
from quantctl.kernels.philox import Draw
from quantctl.kernels.products import grouped_packed
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.packed import Layout, Packed
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.codes import decode_tile
from quantctl.kernels.triton.constants import constants
from quantctl.kernels.triton.grouped import draws_of, group_factors, group_tile, launch, literal, words_of
from quantctl.kernels.triton.packed import (
    ENCODE_ONLY,
    empty,
    load_codes,
    packing,
    scale_positions,
    store_codes,
    values_and_codes,
)
from quantctl.kernels.triton.qdq import draw_words, raw
from quantctl.spec import FormatSpec, parse


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first", "groups"])  # fmt: skip
def grouped_pack_kernel(x_ptr, values_ptr, elements_ptr, scales_ptr, ends_ptr, tile_ends_ptr, encode_ptr, decode_ptr,
                        table_ptr, groups, n_size, row_bytes, seed_low, seed_high, rank, call_low_last, call_high_last,
                        call_low_first, call_high_first, AXIS: tl.constexpr, FORMAT: tl.constexpr,
                        BLOCK: tl.constexpr, BITS: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr,
                        MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
                        LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, SCALED: tl.constexpr,
                        DTYPE_LARGEST: tl.constexpr, BF16: tl.constexpr, EXACT: tl.constexpr, FOURS: tl.constexpr,
                        GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [rows of all groups, n_size] -> its values in blocks along n, its codes and scales in blocks along AXIS.

    Parameters as in triton_packed.pack_kernel; the factors that encode_ptr and decode_ptr have are the groups'.
    """
    tl.static_assert(COUNT * BITS == WIDTH * 8)
    tl.static_assert(COLUMNS % COUNT == 0)
    group, m, exists, n_start, n, mask, pointers = group_tile(x_ptr, ends_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                              n_size, False, GROUPS, ROWS, COLUMNS)  # fmt: skip
    n_tile = n_start // COLUMNS
    bits = load_bits(pointers, mask, BF16)
    encode, decode = 1.0, 1.0
    if SCALED:
        encode = tl.load(encode_ptr + group, mask=group < groups, other=1.0)
        decode = tl.load(decode_ptr + group, mask=group < groups, other=1.0)
    values, codes, scales = values_and_codes(
        bits, m, n, n_tile, n_size, encode, decode, table_ptr, seed_low, seed_high, rank, call_low_last, call_high_last,
        call_low_first, call_high_first, AXIS, FORMAT, BLOCK, BITS, MANTISSA_BITS, MIN_EXPONENT, MAX_EXPONENT, LARGEST,
        RULE, ROUND, SCALED, DTYPE_LARGEST, FOURS, ROWS, COLUMNS)  # fmt: skip
    store_bits(values_ptr + (m * n_size + n), values, mask, BF16, EXACT)
    store_codes(elements_ptr, codes, m, exists, n_tile, row_bytes, BITS, COUNT, WIDTH, ROWS, COLUMNS)
    if FORMAT != "hifp8":
        at, mask = _scale_positions(m, exists, n_tile, n_size, AXIS, BLOCK, ROWS, COLUMNS)
        tl.store(scales_ptr + at, scales.to(tl.uint8), mask=mask)


@triton.jit
def _scale_positions(m, exists, n_tile, n_size, AXIS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
                     COLUMNS: tl.constexpr):  # fmt: skip
    """Those of this program's tile; along the rows there is room for all of a tile's blocks."""
    tile = (tl.program_id(0) // tl.cdiv(n_size, COLUMNS)).to(tl.int64)
    return scale_positions(m, exists, tile, n_tile, (tile + 1) * (ROWS // BLOCK), n_size, AXIS, BLOCK, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["groups"])
def grouped_unpack_kernel(elements_ptr, scales_ptr, ends_ptr, tile_ends_ptr, decode_ptr, table_ptr, values_ptr, groups,
                          n_size, row_bytes, AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
                          BITS: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr, MANTISSA_BITS: tl.constexpr,
                          MIN_EXPONENT: tl.constexpr, SCALED: tl.constexpr, DTYPE_LARGEST: tl.constexpr,
                          BF16: tl.constexpr, EXACT: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
                          COLUMNS: tl.constexpr):  # fmt: skip
    """What grouped_pack_kernel stored of x -> its values in blocks along AXIS."""
    group, m, exists, n_start, _, mask, pointers = group_tile(values_ptr, ends_ptr, ends_ptr, tile_ends_ptr, groups,
                                                              n_size, n_size, False, GROUPS, ROWS,
                                                              COLUMNS)  # fmt: skip
    n_tile = n_start // COLUMNS
    codes = load_codes(elements_ptr, m, exists, n_tile, row_bytes, BITS, COUNT, WIDTH, ROWS, COLUMNS)
    decode, scales = 1.0, 0
    if SCALED:
        decode = tl.load(decode_ptr + group, mask=group < groups, other=1.0)
    if FORMAT != "hifp8":
        at, scales_exist = _scale_positions(m, exists, n_tile, n_size, AXIS, BLOCK, ROWS, COLUMNS)
        scales = tl.load(scales_ptr + at, mask=scales_exist, other=0).to(tl.int32)
    values = decode_tile(codes, scales, decode, table_ptr, AXIS, FORMAT, BLOCK, BITS, MANTISSA_BITS, MIN_EXPONENT,
                         SCALED, DTYPE_LARGEST, ROWS, COLUMNS)  # fmt: skip
    store_bits(pointers, values, mask, BF16, EXACT)


def quantize_rows_packed(
    x: Tensor, groups: Groups, layout: Layout, draws: tuple[Draw | None, Draw | None]
) -> tuple[Tensor, Packed]:
    """Contiguous x [rows, n]: its values along axis 1, and packed as `layout` says. Waits for no device.

    draws: that of the values and, for axis 0, that of the codes; of one seed and rank.
    """
    spec = layout.spec
    values, packed = torch.empty_like(x), empty(x, layout)
    if not x.numel():
        return values, packed
    grid, tile = launch(groups, layout.columns)
    tile_ends = groups.tile_ends(BLOCK)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        encode, decode = group_factors(x, None, groups, tile_ends, spec)
        if has_tensor_scale(spec):
            packed = packed._replace(tensor_scale=decode)
        grouped_pack_kernel[grid](
            *(raw(x), raw(values), packed.elements, x if packed.block_scales is None else packed.block_scales),
            *(groups.ends, tile_ends, encode, decode),
            hifp8.codes_table(x) if spec.format == "hifp8" else x,
            *(len(groups), layout.columns, packed.elements.shape[1]),
            **draw_words(("last", "first"), draws),
            AXIS=layout.axis,
            FOURS=layout.columns % 4 == 0,
            **packing(spec),
            **constants(spec, x.dtype),
            **tile,
            enable_fp_fusion=False,
        )
    return values, packed


def dequantize_rows(packed: Packed, layout: Layout, groups: Groups) -> Tensor:
    """The values of `packed`, [rows, columns]."""
    spec, elements = layout.spec, packed.elements
    values = elements.new_empty(layout.rows, layout.columns, dtype=layout.dtype)
    if not values.numel():
        return values
    grid, tile = launch(groups, layout.columns)
    fixed = {name: value for name, value in constants(spec, layout.dtype).items() if name not in ENCODE_ONLY}
    with torch.cuda.device(elements.device) if elements.is_cuda else nullcontext():
        grouped_unpack_kernel[grid](
            *(elements, elements if packed.block_scales is None else packed.block_scales),
            *(
                groups.ends,
                groups.tile_ends(BLOCK),
                groups.ends if packed.tensor_scale is None else packed.tensor_scale,
            ),
            raw(hifp8.values_table(elements)) if spec.format == "hifp8" else elements,
            *(raw(values), len(groups), layout.columns, elements.shape[1]),
            AXIS=layout.axis,
            **packing(spec),
            **fixed,
            **tile,
            enable_fp_fusion=False,
        )
    return values


# nodes of a torch.compile graph, in which tensors that are not there are left out


def as_node(x: Tensor, groups: Groups, layout: Layout, draws: tuple[Draw | None, Draw | None]) -> tuple[Tensor, Packed]:
    """grouped_packed.quantize_rows_packed as one node, but for the layout."""
    values, *kept = pack_operator(x, groups.ends, literal(layout.spec), layout.axis, words_of(draws))
    return values, _packed(kept, layout.spec)


def _packed(kept: list[Tensor], spec: FormatSpec) -> Packed:
    elements, *scales = kept
    tensor_scale = scales.pop() if has_tensor_scale(spec) else None
    return Packed(elements, scales[0] if scales else None, tensor_scale)


def _present(packed: Packed) -> list[Tensor]:
    return [tensor for tensor in packed if tensor is not None]


@uncaptured("quantctl::quantize_rows_packed", "(Tensor x, Tensor ends, str spec, int axis, int[] words) -> Tensor[]")
def pack_operator(x: Tensor, ends: Tensor, spec: str, axis: int, words: list[int]) -> list[Tensor]:
    """The values and the tensors of the packed matrix."""
    first, second = draws_of(words, [1, axis])
    groups = Groups(x.shape[0], ends, None)
    values, packed, _ = grouped_packed.quantize_rows_packed(x, groups, parse(spec), axis, (first, second))
    return [values, *_present(packed)]


@pack_operator.register_fake
def _(x: Tensor, ends: Tensor, spec: str, axis: int, words: list[int]) -> list[Tensor]:
    layout = grouped_packed.layout_of(x.shape, x.dtype, ends.shape[0], parse(spec), axis)
    return [torch.empty_like(x), *_present(empty(x, layout))]


def dequantize_as_node(packed: Packed, layout: Layout, groups: Groups) -> Tensor:
    spec = literal(layout.spec)
    return unpack_operator(_present(packed), groups.ends, spec, layout.axis, layout.columns, layout.dtype)


@uncaptured(
    "quantctl::dequantize_rows",
    "(Tensor[] kept, Tensor ends, str spec, int axis, int columns, ScalarType dtype) -> Tensor",
)
def unpack_operator(kept: list[Tensor], ends: Tensor, spec: str, axis: int, columns: int, dtype: torch.dtype) -> Tensor:
    groups, parsed = Groups(kept[0].shape[0], ends, None), parse(spec)
    layout = grouped_packed.layout_of((groups.rows, columns), dtype, len(groups), parsed, axis)
    return grouped_packed.dequantize_rows(_packed(kept, parsed), layout, groups)


@unpack_operator.register_fake
def _(kept: list[Tensor], ends: Tensor, spec: str, axis: int, columns: int, dtype: torch.dtype) -> Tensor:
    return kept[0].new_empty(kept[0].shape[0], columns, dtype=dtype)
