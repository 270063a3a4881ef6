"""A tensor kept in its format: element codes and scales, a half to a quarter of the bytes of the bf16 values.

This is how a layer keeps an operand of the forward for its weight gradient. `quantize_dequantize_packed` gives the
operand of the forward product and what is to be kept from one read of the tensor, `dequantize` gives the values back,
and they are those of quantize_dequantize in every bit.
On a CPU they are kept as they are, quantized in the same pass: packing takes longer than it saves.
Unlike codes.Encoded, which has the quantized axis last as the formats' hardware reads it, the codes lie where the
values lay: packing and unpacking write whole rows, along whichever axis the blocks are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, TRITON, family_of
from quantctl.kernels.formats.blocks import WHOLE, block_of, scale_shape
from quantctl.kernels.formats.codes import GROUPS, pack, unpack
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.hadamard import check_fits, transformed, without
from quantctl.kernels.formats.quantize import (
    FORMATS,
    draw_for,
    noise_for,
    operand,
    quantize_dequantize,
    quantize_dequantize_along,
    quantize_dequantize_both,
)
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.kernels.products import operands
from quantctl.kernels.products.groups import in_tiles, tile_rows, tiles
from quantctl.kernels.products.plan import Kept
from quantctl.spec import FormatSpec, ProductSpecs


class Layout(NamedTuple):
    """What the bytes of a packed matrix mean."""

    spec: FormatSpec
    """Without the Hadamard transform that it may have had; where rows lie in groups with it, whose lines tiles hold."""
    axis: int
    """0 or 1: the blocks go along the rows' numbers, or along the rows."""
    rows: int
    columns: int
    dtype: torch.dtype
    groups: int | None = None
    """Rows in so many groups: blocks of axis 0 start anew at each, and each has a tensor scale (grouped_packed.py)."""


class Packed(NamedTuple):
    """The tensors of a packed matrix [rows, columns]."""

    elements: Tensor
    """uint8 [rows, bytes]: the columns' codes as codes.pack packs them, two 4-bit codes a byte, four 6-bit in three.

    Or the values themselves, in the matrix's dtype and without scales, where keeping them packed is not worth it.
    """
    block_scales: Tensor | None
    """[blocks, columns] (axis 0) or [rows, blocks] (axis 1), squares [blocks, blocks]: bytes E8M0 or E4M3, or fp32
    factors; None for HiFloat8.

    Blocks along groups of rows lie in tiles (groups.tile_rows): each group starts one, and there are as many as there
    can be. What is one block a group is [groups, columns] or [groups, 1].
    """
    tensor_scale: Tensor | None
    """fp32 [], [groups] or of rows [rows, 1], [1, columns] or [groups, columns]: as codes.Encoded's; None where the
    spec has none."""


class Shapes(NamedTuple):
    """Those of the tensors of a Packed."""

    elements: tuple[int, ...]
    block_scales: tuple[int, ...] | None
    tensor_scale: tuple[int, ...] | None


def shapes(layout: Layout) -> Shapes:
    spec, axis, rows, columns, _, groups = layout
    format_ = FORMATS[spec.format]
    count, width = GROUPS[format_.bits(spec)]
    block, scales = block_of(spec, format_.block), None
    if format_.has_blocks and groups is not None and block.along == WHOLE:
        scales = (groups, columns if block.across else 1)
    elif format_.has_blocks and groups is not None and in_tiles(spec, axis):
        size = tile_rows(spec, (axis,))
        scales = (tiles(rows, groups, size) * (size // block.along), -(-columns // block.across))
    elif format_.has_blocks:
        size_of = (rows, columns) if axis == 1 else (columns, rows)
        across, along = scale_shape(size_of, block)
        scales = (across, along) if axis == 1 else (along, across)
    factors: tuple[int, ...] = () if groups is None else (groups,)
    if spec.extent == "row":
        factors = (rows, 1) if axis == 1 else (1 if groups is None else groups, columns)
    return Shapes((rows, -(-columns // count) * width), scales, factors if has_tensor_scale(spec) else None)


def nbytes(layout: Layout) -> int:
    """Bytes of the tensors of a packed matrix."""
    sizes = zip(shapes(layout), (1, FORMATS[layout.spec.format].scale_bytes, 4), strict=True)
    return sum(math.prod(shape) * size for shape, size in sizes if shape is not None)


def is_recorded(ctx: Any) -> bool:
    """Whether autograd records the forward of this context, so that something of it may be kept for a backward.

    In evaluation it does not, nor in the first pass of recomputation: then there are no next functions. Under
    torch.compile nothing is known of them, and the compiler decides what to keep.
    """
    return not torch.compiler.is_compiling() and getattr(ctx, "next_functions", None) != ()


def quantize_dequantize_packed(
    x: Tensor, spec: FormatSpec, axis: int, rngs: tuple[philox.Draw | None, philox.Draw | None] = (None, None)
) -> tuple[Tensor, Packed, Layout]:
    """quantize_dequantize(x, spec, 1), and x in codes in blocks along `axis`: x [rows, columns], contiguous.

    rngs: the draws of the two, new ones in this order where none is given; along axis 1 there is one quantization, and
    only the first counts. Where Triton computes, x is read once. Raises QuantctlError as quantize_dequantize does.
    """
    x = operand(x, spec)
    draw = draw_for(spec, rngs[0])
    packed_draw = draw_for(spec, rngs[1]) if axis == 0 else draw
    layout = Layout(without(spec), axis, x.shape[0], x.shape[1], x.dtype)
    if family_of(x, spec) == TRITON:
        from quantctl.kernels.triton import packed as triton_packed

        check_fits(x, spec, 1, axis)
        return *triton_packed.quantize_dequantize_packed(x, layout, (draw, packed_draw), spec), layout
    values = quantize_dequantize(x, spec, 1, rng=draw)
    return values, _pack(transformed(x, spec, axis, packed_draw), layout, packed_draw), layout


def quantize_dequantize_kept(
    x: Tensor, kept: Kept, specs: ProductSpecs, rngs: tuple[philox.Draw | None, philox.Draw | None], by: str
) -> tuple[Tensor, Packed, Layout]:
    """x [..., in], contiguous, as fprop takes it, and [tokens, in] packed as wgrad will, which does not take it as it
    is.

    rngs: the draws of both. by: the family that computes. Read once where one format serves both.
    """
    if by == CPU and kept.together and kept.axis == 0:
        values, by_tokens = quantize_dequantize_both(x, kept.spec, rngs, by=by)
        rows, columns = by_tokens.shape
        return values, Packed(by_tokens, None, None), Layout(kept.spec, 0, rows, columns, x.dtype)
    values, packed, layout = _kept_matrix(x.view(-1, x.shape[-1]), kept, specs, rngs, by)
    return values.view_as(x), packed, layout


def _kept_matrix(
    x: Tensor, kept: Kept, specs: ProductSpecs, rngs: tuple[philox.Draw | None, philox.Draw | None], by: str
) -> tuple[Tensor, Packed, Layout]:
    if by == CPU:
        return unpacked(kept, x, specs, rngs, quantize_dequantize_along)
    if kept.together:
        return quantize_dequantize_packed(x, kept.spec, kept.axis, (rngs[0], rngs[1]))
    values = quantize_dequantize(x, specs.fprop[0].spec, 1, rng=rngs[0])
    return values, *packed_matrix(operands.begin(specs.wgrad[1], x, values), kept.spec, kept.axis, rngs[1])


def unpacked(
    kept: Kept, x: Tensor, specs: ProductSpecs, rngs: operands.Draws, quantize: operands.Quantize
) -> tuple[Tensor, Packed, Layout]:
    """As quantize_dequantize_kept, but what is kept are the values."""
    layout = Layout(kept.spec, kept.axis, x.shape[0], x.shape[1], x.dtype)
    if kept.axis == 1:
        (values,) = own = quantize(x, kept.spec, (1,), rngs[:1])
    elif kept.together:
        values, *own = quantize(x, kept.spec, (1, 0), rngs)
    else:
        (values,) = quantize(x, specs.fprop[0].spec, (1,), rngs[:1])
        own = quantize(operands.begin(specs.wgrad[1], x, values), kept.spec, (0,), rngs[1:])
    return values, Packed(own[0], None, None), layout


def packed_matrix(x: Tensor, spec: FormatSpec, axis: int, rng: philox.Draw | None = None) -> tuple[Packed, Layout]:
    """x [rows, columns], contiguous, in codes in blocks along `axis`. Raises as quantize_dequantize does."""
    x = operand(x, spec)
    draw = draw_for(spec, rng)
    layout = Layout(without(spec), axis, x.shape[0], x.shape[1], x.dtype)
    if family_of(x, spec) == TRITON:
        from quantctl.kernels.triton import packed as triton_packed

        check_fits(x, spec, axis)
        return triton_packed.quantize_dequantize_packed(x, layout, (draw, draw), spec, values=False)[1], layout
    return _pack(transformed(x, spec, axis, draw), layout, draw), layout


def _pack(x: Tensor, layout: Layout, draw: philox.Draw | None) -> Packed:
    spec, axis = layout.spec, layout.axis
    noise, format_ = noise_for(x, spec, draw), FORMATS[spec.format]
    noise = None if noise is None else noise.movedim(axis, -1).contiguous()
    codes = format_.encode(x.movedim(axis, -1).contiguous(), spec, noise)
    elements = pack(codes.elements.movedim(-1, axis).contiguous(), format_.bits(spec))
    scales = None if codes.block_scales is None else codes.block_scales.movedim(-1, axis).contiguous()
    factor = codes.tensor_scale
    return Packed(elements, scales, factor.movedim(-1, axis) if factor is not None and factor.dim() > 1 else factor)


def dequantize(packed: Packed, layout: Layout) -> Tensor:
    """The values, contiguous [rows, columns] in the dtype of the tensor that was packed."""
    if packed.elements.dtype == layout.dtype:
        return packed.elements
    if family_of(packed.elements, layout.spec) == TRITON:
        from quantctl.kernels.triton import packed as triton_packed

        return triton_packed.dequantize(packed, layout)
    spec, axis = layout.spec, layout.axis
    format_ = FORMATS[spec.format]
    elements = unpack(packed.elements, format_.bits(spec), layout.columns).movedim(axis, -1)
    scales = None if packed.block_scales is None else packed.block_scales.movedim(axis, -1)
    factor = packed.tensor_scale
    factor = factor.movedim(axis, -1) if factor is not None and factor.dim() > 1 else factor
    values = format_.decode(Codes(elements, scales, factor), spec, layout.dtype)
    return values.movedim(-1, axis).contiguous()
