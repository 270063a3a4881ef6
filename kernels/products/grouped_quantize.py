"""quantize_dequantize of matrices that lie in groups: the tokens of each expert, and the experts' weights.

Each group is quantized as if it were alone: blocks along the rows start anew at each group's first row, and a tensor
scale is the group's own. So an expert's operands are, bit for bit, those that it has when it is computed by itself.
One thing differs: stochastic rounding takes one draw for all groups, an element's number being its place in the whole,
and so do random signs. Along the rows a Hadamard transform wants as many in each group as its size divides: it is that
of the rows with zeros behind each group, and so has those rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, TRITON, family_of
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.hadamard import behind, check_fits, is_wanted, size_of
from quantctl.kernels.formats.quantize import (
    FORMATS,
    draw_for,
    is_same_along_all_axes,
    noise_for,
    operand,
    quantize_dequantize_along,
)
from quantctl.kernels.formats.scaled import Scaled, dequantize
from quantctl.kernels.formats.tensor_scale import SCALED, extent_of, has_tensor_scale
from quantctl.kernels.products.groups import Groups, in_tiles, tile_rows
from quantctl.spec import NONE, FormatSpec

Draws = tuple[philox.Draw | None, ...]


def quantize_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], rngs: Draws | None = None
) -> list[Tensor]:
    """x [rows, n] along each of `axes`: 1, within the rows, or 0, along the rows of each group; read once for both.

    Results have x's dtype and are contiguous, and have x's shape, but for axis 0 the rows of `filled`. rngs: as in
    quantize_dequantize_along. Raises QuantctlError for dtypes that cannot be quantized, and for a Hadamard transform
    that does not divide the rows' elements.
    """
    if spec.is_none:
        return [x for _ in axes]
    x = operand(x, spec).contiguous()
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if is_wanted(spec):
        each = [filled(x, groups, spec, axis) for axis in axes]
        if any(own is not groups for _, own in each):
            parts = zip(each, axes, draws, strict=True)
            return [_in_groups(*rows, spec, (axis,), (draw,))[0] for rows, axis, draw in parts]
    return _in_groups(x, groups, spec, axes, draws)


def filled(x: Tensor, groups: Groups, spec: FormatSpec, axis: int) -> tuple[Tensor, Groups]:
    """x [rows, ...] and its groups as `spec` takes them along `axis`: with zeros behind each group, where there is a
    Hadamard transform along rows which it does not divide."""
    size = size_of(spec) if axis == 0 else 1
    own = groups.filled(size)
    return (x, groups) if own is groups else (spread(x, groups, size, own.rows), own)


def _in_groups(x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], draws: Draws) -> list[Tensor]:
    """quantize_rows of rows that are filled up."""
    if not any(groups_matter(spec, axis) for axis in axes):
        return quantize_dequantize_along(x, spec, axes, draws)
    if len(axes) == 2 and is_same_along_all_axes(spec):
        return _in_groups(x, groups, spec, axes[:1], draws[:1]) * 2
    by = family_of(x, spec)
    if by == TRITON:
        from quantctl.kernels.triton import grouped as triton_grouped

        check_fits(x, spec, *axes)
        return triton_grouped.quantize_rows(x, groups, spec, axes, draws)
    if is_wanted(spec):
        return [_in_groups_behind(x, groups, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]
    if by == CPU and not torch.compiler.is_compiling():
        from quantctl.kernels.cpu import grouped as cpu_grouped

        return cpu_grouped.quantize_rows(x, groups, spec, axes, draws)
    return [_rows(x, groups, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]


def _in_groups_behind(x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    return behind(x, spec, axis, draw, lambda y, rest: _in_groups(y, groups, rest, (axis,), (draw,))[0])


def groups_matter(spec: FormatSpec, axis: int) -> bool:
    """Whether the rows' groups say anything about x along `axis`: where blocks start, or what a tensor or row is."""
    in_blocks = FORMATS[spec.format].has_blocks
    return extent_of(spec) == "tensor" or in_tiles(spec, axis) or (axis == 0 and in_blocks)


def _rows(x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    """The reference. Blocks along rows are in tiles of each group's own, filled up with zeros, which change nothing."""
    noise = noise_for(x, spec, draw)
    format_ = FORMATS[spec.format]
    if not groups_matter(spec, axis):
        return format_.quantize_dequantize(x, spec, axis, noise)
    if isinstance(format_, Scaled) and extent_of(spec) != NONE:
        amax = amax_of_groups(x, groups, spec).index_select(0, groups.of_rows())
        return dequantize(*format_.quantized(x.float(), amax, spec, noise, x.dtype), x.dtype)
    tiled = in_tiles(spec, axis)
    size = tile_rows(spec, (axis,))
    x_in, noise = (spread(t, groups, size) if tiled and t is not None else t for t in (x, noise))
    assert x_in is not None
    if has_tensor_scale(spec):
        amax = by_blocks(amax_of_groups(x, groups, spec), groups, spec, axis)
        if tiled and block_of(spec, 1).across <= 1:  # the blocks' axis is followed by one that counts within blocks
            amax = (amax.unsqueeze(-1) if spec.extent == "row" else amax).movedim(0, -1)
        result = SCALED[spec.format].quantize_dequantize(x_in, spec, axis, noise, amax)
    else:
        result = format_.quantize_dequantize(x_in, spec, axis, noise)
    return result.index_select(0, groups.slots(size)) if tiled else result


def spread(x: Tensor, groups: Groups, size: int, rows: int | None = None) -> Tensor:
    """x [rows, ...] at its slots, [tiles * size, ...] or as many rows as are given, zeros elsewhere."""
    places = x.new_zeros(groups.tiles(size) * size if rows is None else rows, *x.shape[1:])
    return places.index_copy_(0, groups.slots(size), x)


def by_blocks(of_groups: Tensor, groups: Groups, spec: FormatSpec, axis: int) -> Tensor:
    """Numbers of groups [groups, 1 or n] as they broadcast: against rows in blocks [rows, blocks, size] for axis 1,
    against blocks of tiles [n, tiles' blocks(, size)] for axis 0, against squares as blocks.split has them, against
    rows [rows, n] where the format has no blocks."""
    block = block_of(spec, FORMATS[spec.format].block)
    if not in_tiles(spec, axis):
        rows = of_groups.index_select(0, groups.of_rows())
        return rows.unsqueeze(-1) if block.along else rows
    size = tile_rows(spec, (axis,))
    blocks = of_groups.index_select(0, groups.of_tiles(size)).repeat_interleave(size // block.along, 0)
    if block.across > 1:
        return blocks.view((-1, 1, 1) if axis == 1 else (1, -1, 1))
    return blocks.t() if spec.extent == "row" else blocks.t().unsqueeze(-1)


def amax_of_groups(x: Tensor, groups: Groups, spec: FormatSpec) -> Tensor:
    """fp32 [groups, 1], or [groups, n] where rows of groups have scales: the largest magnitude of each, of finite ones
    if the format counts those; 0 where there is nothing."""
    magnitudes = x.float().abs()
    if spec.format in SCALED:
        magnitudes = magnitudes.nan_to_num(0.0, 0.0, 0.0)
    bits = magnitudes.view(torch.int32)  # as integers NaN is above all others
    if extent_of(spec) == "tensor" and x.shape[1]:
        bits = bits.amax(1, keepdim=True)
    found = torch.zeros(len(groups), bits.shape[1], dtype=torch.int32, device=x.device)
    if x.numel():
        owner = groups.of_rows().unsqueeze(1).expand_as(bits)
        found.scatter_reduce_(0, owner, bits, "amax")
    return found.view(torch.float32)


def quantize_stack(
    weights: Sequence[Tensor], spec: FormatSpec, axes: tuple[int, ...], rngs: Draws | None = None
) -> list[Tensor]:
    """Weights [out, in] of one shape and dtype as [weights, out, in], each along each of `axes`: 0 (out) or 1 (in)."""
    if spec.is_none:
        return [torch.stack([weight.detach() for weight in weights])] * len(axes)
    weights = [operand(weight, spec) for weight in weights]
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if len(axes) == 2 and is_same_along_all_axes(spec):
        return quantize_stack(weights, spec, axes[:1], draws[:1]) * 2
    if family_of(weights[0], spec) == TRITON:
        from quantctl.kernels.triton import grouped as triton_grouped

        check_fits(weights[0], spec, *axes)
        return triton_grouped.quantize_stack(weights, spec, axes, draws)
    return _stack(torch.stack(list(weights)), spec, axes, draws)


def _stack(stack: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: Draws) -> list[Tensor]:
    """quantize_stack of [weights, out, in], by the reference or on a CPU."""
    if extent_of(spec) != "tensor":
        return quantize_dequantize_along(stack, spec, tuple(axis + 1 for axis in axes), draws)
    if is_wanted(spec):
        return [_stack_behind(stack, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]
    if family_of(stack, spec) == CPU and not torch.compiler.is_compiling():
        from quantctl.kernels.cpu import grouped as cpu_grouped

        return cpu_grouped.quantize_stack(stack, spec, axes, draws)
    groups = Groups.equal(stack.shape[0], stack.shape[1], stack.device)
    rows = stack.flatten(0, 1)
    return [_rows(rows, groups, spec, axis, draw).view_as(stack) for axis, draw in zip(axes, draws, strict=True)]


def _stack_behind(stack: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    return behind(stack, spec, axis + 1, draw, lambda y, rest: _stack(y, rest, (axis,), (draw,))[0])
