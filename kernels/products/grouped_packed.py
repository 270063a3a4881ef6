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
from quantctl.kernels.formats.mx import BLOCK
from quantctl.kernels.formats.quantize import FORMATS, draw_for, operand
from quantctl.kernels.formats.tensor_scale import SCALED, factors, has_tensor_scale
from quantctl.kernels.products import operands
from quantctl.kernels.products.grouped_quantize import amax_of_groups, by_blocks, groups_matter, quantize_rows, spread
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.packed import (
    Layout,
    Packed,
    dequantize,
    packed_matrix,
    quantize_dequantize_packed,
    unpacked,
)
from quantctl.kernels.products.plan import Kept
from quantctl.spec import FormatSpec, ProductSpecs


def layout_of(size: Sequence[int], dtype: torch.dtype, groups: int, spec: FormatSpec, axis: int) -> Layout:
    """What the bytes of a matrix of `size` [rows, n] in so many groups, in blocks along `axis`, mean."""
    rows, columns = size
    return Layout(spec, axis, rows, columns, dtype, groups if groups_matter(spec, axis) else None)


def quantize_rows_packed(
    x: Tensor,
    groups: Groups,
    spec: FormatSpec,
    axis: int,
    rngs: tuple[philox.Draw | None, philox.Draw | None] = (None, None),
) -> tuple[Tensor, Packed, Layout]:
    """quantize_rows(x, groups, spec, (1,)), and x [rows, n] in codes in blocks along `axis`; read once for both.

    rngs: the draws of the two, new ones in this order where none is given; along axis 1 there is one quantization, and
    only the first counts. Raises QuantctlError for dtypes that cannot be quantized.
    """
    x = operand(x, spec).contiguous()
    draw = draw_for(spec, rngs[0])
    draws = (draw, draw_for(spec, rngs[1]) if axis == 0 else draw)
    layout = layout_of(x.shape, x.dtype, len(groups), spec, axis)
    by_triton = family_of(x) == TRITON
    if by_triton and torch.compiler.is_compiling():
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

        return *triton_grouped_packed.as_node(x, groups, layout, draws), layout
    if layout.groups is None:
        return quantize_dequantize_packed(x, spec, axis, draws)
    if by_triton:
        from quantctl.kernels.triton import grouped_packed as triton_grouped_packed

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
    """packed.packed_matrix for rows in groups."""
    layout = layout_of(x.shape, x.dtype, len(groups), spec, axis)
    if family_of(x) == TRITON:
        return quantize_rows_packed(x, groups, spec, axis, (rng, rng))[1:]
    if layout.groups is None:
        return packed_matrix(x, spec, axis, rng)
    return _pack(operand(x, spec).contiguous(), groups, layout, draw_for(spec, rng)), layout


def _in_tiles(layout: Layout) -> bool:
    return layout.axis == 0 and FORMATS[layout.spec.format].has_blocks


def _pack(x: Tensor, groups: Groups, layout: Layout, draw: philox.Draw | None) -> Packed:
    """The reference. Along rows each group gets tiles of its own, as in quantize_rows."""
    spec, tiled = layout.spec, _in_tiles(layout)
    format_ = FORMATS[spec.format]
    noise = None if draw is None else philox.uniform(x.shape, draw, x.device)
    rows, row_noise = (spread(t, groups).t().contiguous() if tiled and t is not None else t for t in (x, noise))
    assert rows is not None
    tensor_scale = None
    if has_tensor_scale(spec):
        amax = amax_of_groups(x, groups)
        _, tensor_scale = factors(amax, spec)
        codes = SCALED[spec.format].encode(rows, spec, row_noise, by_blocks(amax, groups, spec, layout.axis))
    else:
        codes = format_.encode(rows, spec, row_noise)
    elements, scales = codes.elements, codes.block_scales
    if tiled:
        assert scales is not None
        elements, scales = elements.t().index_select(0, groups.slots(BLOCK)), scales.t().contiguous()
    return Packed(pack(elements, format_.bits(spec)), scales, tensor_scale)


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
    spec, tiled = layout.spec, _in_tiles(layout)
    format_ = FORMATS[spec.format]
    elements, scales, tensor_scale = unpack(packed.elements, format_.bits(spec), layout.columns), *packed[1:]
    if tiled:
        assert scales is not None
        elements, scales = spread(elements, groups).t(), scales.t()
    if tensor_scale is not None:
        tensor_scale = by_blocks(tensor_scale, groups, spec, layout.axis)
    values = format_.decode(Codes(elements, scales, tensor_scale), spec, layout.dtype)
    return values.t().index_select(0, groups.slots(BLOCK)) if tiled else values.contiguous()
