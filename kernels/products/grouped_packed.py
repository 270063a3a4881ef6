"""The tokens of all experts kept in their format, as packed.py keeps a matrix: codes where the values lay, and scales.

Each group's codes and scales are, bit for bit, those of the group alone, but for the noise of stochastic rounding
(grouped_quantize.py). Blocks along the rows start anew at each group's first row, so their scales lie in tiles: each
group starts one, and there is room for as many tiles as there can be. Where the groups play no role (blocks along the
elements, and HiFloat8, both without a tensor scale) it is packed.py that packs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, TRITON, family_of
from quantctl.kernels.formats.codes import pack, unpack
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.hadamard import check_fits, transformed, without
from quantctl.kernels.formats.quantize import FORMATS, draw_for, noise_for, operand
from quantctl.kernels.formats.scaled import Scaled
from quantctl.kernels.formats.scaled import dequantize as scaled_dequantize
from quantctl.kernels.formats.tensor_scale import SCALED, extent_of, kept_of
from quantctl.kernels.products import operands
from quantctl.kernels.products.grouped_quantize import (
    amax_of_groups,
    by_blocks,
    filled,
    groups_matter,
    quantize_rows,
    spread,
)
from quantctl.kernels.products.groups import Groups, in_tiles, tile_rows
from quantctl.kernels.products.packed import (
    Layout,
    Packed,
    dequantize,
    packed_matrix,
    quantize_dequantize_packed,
    shapes,
    unpacked,
)
from quantctl.kernels.products.plan import Kept
from quantctl.spec import NONE, FormatSpec, ProductSpecs


def layout_of(size: Sequence[int], dtype: torch.dtype, groups: int, spec: FormatSpec, axis: int) -> Layout:
    """What the bytes of a matrix of `size` [rows, n] in so many groups, in blocks along `axis`, mean."""
    rows, columns = size
    if not groups_matter(spec, axis):
        return Layout(without(spec), axis, rows, columns, dtype)
    return Layout(spec, axis, rows, columns, dtype, groups)


def quantize_rows_packed(
    x: Tensor,
    groups: Groups,
    spec: FormatSpec,
    axis: int,
    rngs: tuple[philox.Draw | None, philox.Draw | None] = (None, None),
) -> tuple[Tensor, Packed, Layout]:
    """quantize_rows(x, groups, spec, (1,)), and x [rows, n] in codes in blocks along `axis`; read once for both.

    rngs: the draws of the two, new ones in this order where none is given; along axis 1 there is one quantization, and
    only the first counts. The codes are those of grouped_quantize.filled rows, read apart where these are more. Raises
    QuantctlError as quantize_rows does.
    """
    x = operand(x, spec).contiguous()
    draw = draw_for(spec, rngs[0])
    draws = (draw, draw_for(spec, rngs[1]) if axis == 0 else draw)
    rows, own = filled(x, groups, spec, axis)
    if own is not groups:
        (values,) = quantize_rows(x, groups, spec, (1,), draws[:1])
        return values, *_packed_rows(rows, own, spec, axis, draws[1])
    return rows_and_codes(x, groups, spec, axis, draws)


def rows_and_codes(
    x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draws: tuple[philox.Draw | None, philox.Draw | None]
) -> tuple[Tensor, Packed, Layout]:
    """quantize_rows_packed of rows that are filled up."""
    layout = layout_of(x.shape, x.dtype, len(groups), spec, axis)
    by_triton = family_of(x) == TRITON
    if by_triton and torch.compiler.is_compiling():
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        return *triton_grouped_packed.as_node(x, groups, spec, axis, draws), layout
    if layout.groups is None:
        return quantize_dequantize_packed(x, spec, axis, draws)
    if by_triton:
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        check_fits(x, spec, 1, axis)
        return *triton_grouped_packed.quantize_rows_packed(x, groups, layout, draws), layout
    (values,) = quantize_rows(x, groups, spec, (1,), draws[:1])
    return values, _pack(x, groups, layout, draws[1]), layout


def quantize_rows_kept(
    x: Tensor, groups: Groups, kept: Kept, specs: ProductSpecs, rngs: tuple[philox.Draw | None, philox.Draw | None]
) -> tuple[Tensor, Packed, Layout]:
    """packed.quantize_dequantize_kept for rows in groups."""
    if family_of(x) == CPU:
        return unpacked(kept, x, specs, rngs, lambda *given: quantize_rows(given[0], groups, *given[1:]))
    if kept.together:
        return quantize_rows_packed(x, groups, kept.spec, kept.axis, rngs)
    (values,) = quantize_rows(x, groups, specs.fprop[0].spec, (1,), rngs[:1])
    return values, *packed_rows(operands.begin(specs.wgrad[1], x, values), groups, kept.spec, kept.axis, rngs[1])


def packed_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axis: int, rng: philox.Draw | None = None
) -> tuple[Packed, Layout]:
    """packed.packed_matrix for rows in groups, or for the rows of grouped_quantize.filled."""
    x, draw = operand(x, spec).contiguous(), draw_for(spec, rng)
    return _packed_rows(*filled(x, groups, spec, axis), spec, axis, draw)


def _packed_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draw: philox.Draw | None
) -> tuple[Packed, Layout]:
    by_triton = family_of(x) == TRITON
    if by_triton and torch.compiler.is_compiling():
        return rows_and_codes(x, groups, spec, axis, (draw, draw))[1:]
    layout = layout_of(x.shape, x.dtype, len(groups), spec, axis)
    if layout.groups is None:
        return packed_matrix(x, spec, axis, draw)
    if by_triton:
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        return triton_grouped_packed.quantize_rows_packed(x, groups, layout, (draw, draw), values=False)[1], layout
    return _pack(x, groups, layout, draw), layout


def _pack(x: Tensor, groups: Groups, layout: Layout, draw: philox.Draw | None) -> Packed:
    """The reference, as in quantize_rows."""
    spec, axis = layout.spec, layout.axis
    x = transformed(x, spec, axis, draw)
    format_, tiled, size = FORMATS[spec.format], in_tiles(spec, axis), tile_rows(spec, (axis,))
    noise = noise_for(x, spec, draw)
    amax = amax_of_groups(x, groups, spec) if extent_of(spec) != NONE else None
    kept = None if amax is None else kept_of(amax, spec, x.dtype)
    if isinstance(format_, Scaled) and amax is not None:
        of_rows = amax.index_select(0, groups.of_rows())
        values, factor = format_.quantized(x.float(), of_rows, spec, noise, x.dtype)
        return Packed(pack(format_.codes_of(values.where(factor.isfinite(), 0.0), spec), 8), kept, None)
    rows, row_noise = (spread(t, groups, size) if tiled and t is not None else t for t in (x, noise))
    rows, row_noise = (t.t().contiguous() if axis == 0 and tiled and t is not None else t for t in (rows, row_noise))
    assert rows is not None
    if amax is not None:
        codes = SCALED[spec.format].encode(rows, spec, row_noise, by_blocks(amax, groups, spec, axis))
    else:
        codes = format_.encode(rows, spec, row_noise)
    elements, scales = codes.elements, codes.block_scales
    if tiled and axis == 0:
        assert scales is not None
        elements, scales = elements.t(), scales.t().contiguous()
    if tiled:
        elements = elements.index_select(0, groups.slots(size))
    return Packed(pack(elements, format_.bits(spec)), scales, kept if kept is None else kept.view(_kept_shape(layout)))


def _kept_shape(layout: Layout) -> tuple[int, ...]:
    shape = shapes(layout).tensor_scale
    assert shape is not None
    return shape


def dequantize_rows(packed: Packed, layout: Layout, groups: Groups) -> Tensor:
    """The values, contiguous [rows, columns] in the dtype of the tensor that was packed."""
    if packed.elements.dtype == layout.dtype:
        return packed.elements
    by_triton = family_of(packed.elements) == TRITON
    if by_triton and torch.compiler.is_compiling():
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        return triton_grouped_packed.dequantize_as_node(packed, layout, groups)
    if layout.groups is None:
        return dequantize(packed, layout)
    if by_triton:
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        return triton_grouped_packed.dequantize_rows(packed, layout, groups)
    spec, axis = layout.spec, layout.axis
    format_, tiled, size = FORMATS[spec.format], in_tiles(spec, axis), tile_rows(spec, (axis,))
    elements, scales, kept = unpack(packed.elements, format_.bits(spec), layout.columns), *packed[1:]
    if isinstance(format_, Scaled) and extent_of(spec) != NONE:
        assert scales is not None
        factor = scales.index_select(0, groups.of_rows())
        return scaled_dequantize(format_.elements_of(elements, spec), factor, layout.dtype)
    if tiled:
        elements = spread(elements, groups, size)
    if tiled and axis == 0:
        assert scales is not None
        elements, scales = elements.t(), scales.t()
    if kept is not None:
        kept = by_blocks(kept.view(len(groups), -1), groups, spec, axis)
    values = format_.decode(Codes(elements, scales, kept), spec, layout.dtype)
    values = values.t() if tiled and axis == 0 else values
    return values.index_select(0, groups.slots(size)) if tiled else values.contiguous()
