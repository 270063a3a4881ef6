"""quantize_dequantize of matrices that lie in groups: the tokens of each expert, and the experts' weights.

Each group is quantized as if it were alone: blocks along the rows start anew at each group's first row, and a tensor
scale is the group's own. So an expert's operands are, bit for bit, those that it has when it is computed by itself.
One thing differs: stochastic rounding takes one draw for all groups, an element's number being its place in the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, TRITON, family_of
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.mx import BLOCK
from quantctl.kernels.formats.quantize import (
    FORMATS,
    draw_for,
    is_same_along_all_axes,
    operand,
    quantize_dequantize_along,
)
from quantctl.kernels.formats.tensor_scale import SCALED, has_tensor_scale, needs_amax
from quantctl.kernels.products.groups import Groups
from quantctl.spec import FormatSpec

Draws = tuple[philox.Draw | None, ...]


def quantize_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], rngs: Draws | None = None
) -> list[Tensor]:
    """x [rows, n] along each of `axes`: 1, within the rows, or 0, along the rows of each group; read once for both.

    Results have x's shape and dtype, and are contiguous. rngs: as in quantize_dequantize_along. Raises QuantctlError
    for dtypes that cannot be quantized.
    """
    if spec.is_none:
        return [x for _ in axes]
    x = operand(x, spec).contiguous()
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if not any(groups_matter(spec, axis) for axis in axes):
        return quantize_dequantize_along(x, spec, axes, draws)
    if len(axes) == 2 and is_same_along_all_axes(spec):
        return quantize_rows(x, groups, spec, axes[:1], draws[:1]) * 2
    by = family_of(x)
    if by == TRITON:
        from quantctl.kernels.triton import grouped as triton_grouped

        return triton_grouped.quantize_rows(x, groups, spec, axes, draws)
    if by == CPU and not torch.compiler.is_compiling():
        from quantctl.kernels.cpu import grouped as cpu_grouped

        return cpu_grouped.quantize_rows(x, groups, spec, axes, draws)
    return [_rows(x, groups, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]


def groups_matter(spec: FormatSpec, axis: int) -> bool:
    """Whether the rows' groups say anything about x along `axis`: where blocks start, or what a tensor is."""
    format_ = FORMATS[spec.format]
    in_squares = format_.has_blocks and block_of(spec, format_.block).across > 1
    return needs_amax(spec) or in_squares or (axis == 0 and format_.has_blocks)


def _rows(x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    """The reference. Along rows each group gets tiles of its own, filled up with zeros, which change nothing."""
    noise = None if draw is None else philox.uniform(x.shape, draw, x.device)
    in_tiles = axis == 0 and FORMATS[spec.format].has_blocks
    tiled, tiled_noise = (spread(t, groups) if in_tiles and t is not None else t for t in (x, noise))
    assert tiled is not None
    if has_tensor_scale(spec):
        amax = by_blocks(amax_of_groups(x, groups), groups, spec, axis)
        # the blocks' axis has one that counts within blocks behind it
        amax = amax.unsqueeze(-1) if in_tiles else amax
        result = SCALED[spec.format].quantize_dequantize(tiled, spec, axis, tiled_noise, amax)
    elif draw is None:
        (result,) = quantize_dequantize_along(tiled, spec, (axis,))
    else:
        result = FORMATS[spec.format].quantize_dequantize(tiled, spec, axis, tiled_noise)
    return result.index_select(0, groups.slots(BLOCK)) if in_tiles else result


def spread(x: Tensor, groups: Groups) -> Tensor:
    """x [rows, ...] at its slots, [tiles * BLOCK, ...], zeros elsewhere."""
    places = x.new_zeros(groups.tiles(BLOCK) * BLOCK, *x.shape[1:])
    return places.index_copy_(0, groups.slots(BLOCK), x)


def by_blocks(of_groups: Tensor, groups: Groups, spec: FormatSpec, axis: int) -> Tensor:
    """A number a group as it broadcasts: against rows in blocks [rows, blocks, size] for axis 1, against blocks of
    tiles [n, tiles' blocks, size] for axis 0, against rows [rows, n] where the format has no blocks."""
    block = FORMATS[spec.format].block
    if not block or axis == 1:
        return of_groups.index_select(0, groups.of_rows()).view((-1, 1, 1) if block else (-1, 1))
    return of_groups.index_select(0, groups.of_tiles(BLOCK)).repeat_interleave(BLOCK // block).view(-1, 1)


def _finite_magnitudes(x: Tensor) -> Tensor:
    return x.float().nan_to_num(0.0, 0.0, 0.0).abs_()


def amax_of_groups(x: Tensor, groups: Groups) -> Tensor:
    """fp32 [groups]: the largest finite magnitude of each; 0 where there is nothing."""
    amax = torch.zeros(len(groups), dtype=torch.float32, device=x.device)
    if not x.numel():
        return amax
    return amax.scatter_reduce_(0, groups.of_rows(), _finite_magnitudes(x).amax(1), "amax")


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
    by = family_of(weights[0])
    if by == TRITON:
        from quantctl.kernels.triton import grouped as triton_grouped

        return triton_grouped.quantize_stack(weights, spec, axes, draws)
    stack = torch.stack(list(weights))
    if not needs_amax(spec):
        return quantize_dequantize_along(stack, spec, tuple(axis + 1 for axis in axes), draws)
    if by == CPU and not torch.compiler.is_compiling():
        from quantctl.kernels.cpu import grouped as cpu_grouped

        return cpu_grouped.quantize_stack(stack, spec, axes, draws)
    amax = _finite_magnitudes(stack).amax((1, 2)).view(-1, *(1,) * (2 + FORMATS[spec.format].has_blocks))
    return [
        SCALED[spec.format].quantize_dequantize(
            stack,
            spec,
            axis + 1,
            None if draw is None else philox.uniform(stack.shape, draw, stack.device),
            amax,
        )
        for axis, draw in zip(axes, draws, strict=True)
    ]
