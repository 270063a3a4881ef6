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
from quantctl.kernels.formats.hadamard import without
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.kernels.operator import uncaptured
from quantctl.kernels.philox import Draw, draws_of, words_of
from quantctl.kernels.products import grouped_packed
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.packed import Layout, Packed
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.codes import decode_tile
from quantctl.kernels.triton.constants import quantizer
from quantctl.kernels.triton.group_kernels import group_row_of, group_tile
from quantctl.kernels.triton.grouped import group_amaxes, programs
from quantctl.kernels.triton.launch import ROLES, Tile, draw_words, raw
from quantctl.kernels.triton.pack_kernels import load_codes, load_scales, scale_positions, store_codes, tile_codes
from quantctl.kernels.triton.packed import empty, kept_in, packing, with_kept
from quantctl.kernels.triton.qdq import tile_values
from quantctl.spec import NONE, FormatSpec, parse


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first", "signs_low_last", "signs_high_last", "signs_low_first",
                               "signs_high_first", "groups"])  # fmt: skip
def grouped_pack_kernel(x_ptr, values_ptr, elements_ptr, scales_ptr, ends_ptr, tile_ends_ptr, amax_last_ptr,
                        amax_first_ptr, table_ptr, groups, n_size, row_bytes, seed_low, seed_high, rank, call_low_last,
                        call_high_last, signs_low_last, signs_high_last, call_low_first, call_high_first,
                        signs_low_first, signs_high_first, AXIS: tl.constexpr, Q: tl.constexpr, VALUES: tl.constexpr,
                        COUNT: tl.constexpr, WIDTH: tl.constexpr, FOURS: tl.constexpr, GROUPS: tl.constexpr,
                        ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [rows of all groups, n_size] -> its values in blocks along n, if VALUES; its codes and scales in blocks along
    AXIS.

    Parameters as in packed.pack_kernel; amax_*: as grouped.grouped_amax_kernel gives them.
    """
    tl.static_assert(COUNT * Q.value.BITS == WIDTH * 8)
    tl.static_assert(COLUMNS % COUNT == 0)
    group, m, exists, n_start, n, mask, pointers = group_tile(x_ptr, ends_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                              n_size, False, GROUPS, ROWS, COLUMNS)  # fmt: skip
    n_tile = n_start // COLUMNS
    bits = load_bits(pointers, mask, Q.value.BF16)
    if VALUES:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 1, Q)
        values = tile_values(bits, amax_last_ptr, at, there, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_last, call_high_last, signs_low_last, signs_high_last, 1, Q, False, FOURS, ROWS,
                             COLUMNS)  # fmt: skip
        store_bits(values_ptr + (m * n_size + n), values, mask, Q.value.BF16, Q.value.EXACT)
    at, there = group_row_of(group, groups, m, exists, n, n_size, AXIS, Q)
    if AXIS == 1:
        codes, scales, _ = tile_codes(bits, amax_last_ptr, at, there, table_ptr, m, n, n_start, n_size, seed_low,
                                      seed_high, rank, call_low_last, call_high_last, signs_low_last, signs_high_last,
                                      1, Q, False, FOURS, ROWS, COLUMNS)  # fmt: skip
    else:
        codes, scales, _ = tile_codes(bits, amax_first_ptr, at, there, table_ptr, m, n, n_start, n_size, seed_low,
                                      seed_high, rank, call_low_first, call_high_first, signs_low_first,
                                      signs_high_first, 0, Q, False, FOURS, ROWS, COLUMNS)  # fmt: skip
    store_codes(elements_ptr, codes, m, exists, n_tile, row_bytes, Q.value.BITS, COUNT, WIDTH, ROWS, COLUMNS)
    if Q.value.BLOCK != 0:
        at, mask = _scale_positions(m, exists, n_tile, n_size, AXIS, Q, ROWS, COLUMNS)
        tl.store(scales_ptr + at, scales.to(scales_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _scale_positions(m, exists, n_tile, n_size, AXIS: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr,
                     COLUMNS: tl.constexpr):  # fmt: skip
    """Those of this program's tile; along the rows there is room for all of a tile's blocks."""
    tile = (tl.program_id(0) // tl.cdiv(n_size, COLUMNS)).to(tl.int64)
    blocks = (tile + 1) * (ROWS // Q.value.BLOCK)
    return scale_positions(m, exists, tile, n_tile, blocks, n_size, AXIS, Q, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["groups"])
def grouped_unpack_kernel(elements_ptr, scales_ptr, ends_ptr, tile_ends_ptr, kept_ptr, table_ptr, values_ptr, groups,
                          n_size, row_bytes, AXIS: tl.constexpr, Q: tl.constexpr, COUNT: tl.constexpr,
                          WIDTH: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
                          COLUMNS: tl.constexpr):  # fmt: skip
    """What grouped_pack_kernel stored of x -> its values in blocks along AXIS."""
    group, m, exists, n_start, n, mask, pointers = group_tile(values_ptr, ends_ptr, ends_ptr, tile_ends_ptr, groups,
                                                              n_size, n_size, False, GROUPS, ROWS,
                                                              COLUMNS)  # fmt: skip
    n_tile = n_start // COLUMNS
    codes = load_codes(elements_ptr, m, exists, n_tile, row_bytes, Q.value.BITS, COUNT, WIDTH, ROWS, COLUMNS)
    kept, scales = 1.0, 0
    if Q.value.EXTENT != "none":
        at, there = group_row_of(group, groups, m, exists, n, n_size, AXIS, Q)
        kept = tl.load(kept_ptr + at, mask=there, other=1.0)
    if Q.value.BLOCK != 0:
        at, scales_exist = _scale_positions(m, exists, n_tile, n_size, AXIS, Q, ROWS, COLUMNS)
        scales = load_scales(scales_ptr, at, scales_exist)
    values = decode_tile(codes, scales, kept, table_ptr, AXIS, Q, ROWS, COLUMNS)
    store_bits(pointers, values, mask, Q.value.BF16, Q.value.EXACT)


def quantize_rows_packed(
    x: Tensor, groups: Groups, layout: Layout, draws: tuple[Draw | None, Draw | None], *, values: bool = True
) -> tuple[Tensor, Packed]:
    """Contiguous x [rows, n]: its values along axis 1 if they are wanted, and packed as `layout` says. Waits for no
    device.

    draws: that of the values and, for axis 0, that of the codes; of one seed and rank.
    """
    spec = layout.spec
    out, packed = torch.empty_like(x) if values else x, empty(x, layout)
    if not x.numel():
        return out, packed
    q, roles = quantizer(spec, x.dtype), ROLES if layout.axis == 0 else ROLES[:1]
    tile = Tile.of(q, layout.columns, roles)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        amax = group_amaxes(x, None, groups, tile, q, roles, draws)
        grouped_pack_kernel[(programs(groups, layout.columns, tile),)](
            *(raw(x), raw(out), packed.elements, x if packed.block_scales is None else packed.block_scales),
            *(groups.ends, groups.tile_ends(tile.rows), *(amax[role] for role in ROLES)),
            hifp8.codes_table(x) if spec.format == "hifp8" else x,
            *(len(groups), layout.columns, packed.elements.shape[1]),
            **draw_words(ROLES, draws),
            AXIS=layout.axis,
            Q=q.parameter,
            VALUES=values,
            FOURS=layout.columns % 4 == 0,
            GROUPS=triton.next_power_of_2(len(groups)),
            **packing(spec),
            **tile.constants(q),
        )
        if q.EXTENT != NONE:
            packed = with_kept(packed, amax[roles[-1]], q, layout)
    return out, packed


def dequantize_rows(packed: Packed, layout: Layout, groups: Groups) -> Tensor:
    """The values of `packed`, [rows, columns]."""
    spec, elements = layout.spec, packed.elements
    values = elements.new_empty(layout.rows, layout.columns, dtype=layout.dtype)
    if not values.numel():
        return values
    q = quantizer(without(spec), layout.dtype)
    tile = Tile.of(quantizer(spec, layout.dtype), layout.columns, ROLES if layout.axis == 0 else ROLES[:1])
    with torch.cuda.device(elements.device) if elements.is_cuda else nullcontext():
        grouped_unpack_kernel[(programs(groups, layout.columns, tile),)](
            *(elements, elements if packed.block_scales is None else packed.block_scales),
            *(groups.ends, groups.tile_ends(tile.rows), kept_in(packed)),
            raw(hifp8.values_table(elements)) if spec.format == "hifp8" else elements,
            *(raw(values), len(groups), layout.columns, elements.shape[1]),
            AXIS=layout.axis,
            Q=q.parameter,
            GROUPS=triton.next_power_of_2(len(groups)),
            **packing(spec),
            **tile.constants(q),
        )
    return values


# nodes of a torch.compile graph, in which tensors that are not there are left out


def as_node(
    x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draws: tuple[Draw | None, Draw | None]
) -> tuple[Tensor, Packed]:
    """grouped_packed.rows_and_codes as one node, but for the layout."""
    values, *kept = pack_operator(x, groups.ends, spec.text, axis, words_of(draws))
    return values, _packed(kept, spec)


def _packed(kept: list[Tensor], spec: FormatSpec) -> Packed:
    elements, *scales = kept
    tensor_scale = scales.pop() if has_tensor_scale(spec) else None
    return Packed(elements, scales[0] if scales else None, tensor_scale)


def _present(packed: Packed) -> list[Tensor]:
    return [tensor for tensor in packed if tensor is not None]


@uncaptured("quantctl::quantize_rows_packed", "(Tensor x, Tensor ends, str spec, int axis, int[] words) -> Tensor[]")
def pack_operator(x: Tensor, ends: Tensor, spec: str, axis: int, words: list[int]) -> list[Tensor]:
    """The values and the tensors of the packed matrix."""
    first, second = draws_of(words, 2)
    groups = Groups(x.shape[0], ends, None)
    values, packed, _ = grouped_packed.rows_and_codes(x, groups, parse(spec), axis, (first, second))
    return [values, *_present(packed)]


@pack_operator.register_fake
def _(x: Tensor, ends: Tensor, spec: str, axis: int, words: list[int]) -> list[Tensor]:
    layout = grouped_packed.layout_of(x.shape, x.dtype, ends.shape[0], parse(spec), axis)
    return [torch.empty_like(x), *_present(empty(x, layout))]


def dequantize_as_node(packed: Packed, layout: Layout, groups: Groups) -> Tensor:
    spec = layout.spec.text
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
