"""quantize_dequantize of matrices that lie in groups: the tokens of each expert, and the experts' weights.

Each group is quantized as if it were alone: blocks along the rows start anew at each group's first row, and a tensor
scale is the group's own. So an expert's operands are, bit for bit, those that it has when it is computed by itself.
One thing differs: stochastic rounding takes one draw for all groups, an element's number being its place in the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantctl.kernels import hifp8, nvfp4, philox
from quantctl.kernels.dispatch import use_triton
from quantctl.kernels.groups import Groups
from quantctl.kernels.mx import BLOCK
from quantctl.kernels.packed import has_tensor_scale
from quantctl.kernels.quantize import FORMATS, draw_for, quantize_dequantize_along, refuse_dtype
from quantctl.spec import FormatSpec

Draws = tuple[philox.Draw | None, ...]
SCALED: dict[str, nvfp4.NVFP4 | hifp8.HiFloat8] = {"nvfp4": nvfp4.FORMAT, "hifp8": hifp8.FORMAT}
"""The formats that have a scale a tensor, hifp8 only if its spec says so."""


def quantize_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], rngs: Draws | None = None
) -> list[Tensor]:
    """x [rows, n] along each of `axes`: 1, within the rows, or 0, along the rows of each group; read once for both.

    Results have x's shape and dtype, and are contiguous. rngs: as in quantize_dequantize_along. Raises QuantctlError
    for dtypes that cannot be quantized.
    """
    if spec.is_none:
        return [x for _ in axes]
    refuse_dtype(x, spec)
    x = x.detach().contiguous()
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    has_blocks = FORMATS[spec.format].has_blocks
    if not has_tensor_scale(spec) and (not has_blocks or axes == (1,)):
        return quantize_dequantize_along(x, spec, axes, draws)  # groups play no role
    if len(axes) == 2 and not has_blocks and spec.round != "stochastic":
        return quantize_rows(x, groups, spec, axes[:1], draws[:1]) * 2  # nor does the axis
    if use_triton(x.device):
        from quantctl.kernels import triton_grouped

        return triton_grouped.quantize_rows(x, groups, spec, axes, draws)
    return [_rows(x, groups, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]


def _rows(x: Tensor, groups: Groups, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    """The reference. Along rows each group gets tiles of its own, filled up with zeros, which change nothing."""
    noise = None if draw is None else philox.uniform(x.shape, draw, x.device)
    format_ = FORMATS[spec.format]
    amax = _amax_of_rows(x, groups) if has_tensor_scale(spec) else None
    if axis == 1 or not format_.has_blocks:
        if amax is None:
            return format_.quantize_dequantize(x, spec, axis, noise)
        in_blocks = (-1, 1, 1) if format_.has_blocks else (-1, 1)
        return SCALED[spec.format].quantize_dequantize(x, spec, axis, noise, amax.view(in_blocks))
    slots = groups.slots(BLOCK)
    tiled, tiled_noise = (None if t is None else _spread(t, slots, groups.tiles(BLOCK)) for t in (x, noise))
    assert tiled is not None
    if amax is None:
        result = format_.quantize_dequantize(tiled, spec, 0, tiled_noise)
    else:
        tile_amax = _spread(amax, slots, groups.tiles(BLOCK)).view(-1, BLOCK).amax(1)
        block_amax = tile_amax.repeat_interleave(BLOCK // nvfp4.BLOCK).view(-1, 1, 1)
        result = SCALED[spec.format].quantize_dequantize(tiled, spec, 0, tiled_noise, block_amax)
    return result.index_select(0, slots)


def _spread(x: Tensor, slots: Tensor, tiles: int) -> Tensor:
    """x [rows, ...] at its slots, [tiles * BLOCK, ...], zeros elsewhere."""
    return x.new_zeros(tiles * BLOCK, *x.shape[1:]).index_copy_(0, slots, x)


def _finite_magnitudes(x: Tensor) -> Tensor:
    return x.float().nan_to_num(0.0, 0.0, 0.0).abs_()


def _amax_of_rows(x: Tensor, groups: Groups) -> Tensor:
    """fp32 [rows]: the largest finite magnitude in the group of each row."""
    if not x.numel():
        return x.new_zeros(x.shape[0], dtype=torch.float32)
    group = groups.of_rows()
    amax = torch.zeros(len(groups), device=x.device).scatter_reduce_(0, group, _finite_magnitudes(x).amax(1), "amax")
    return amax.index_select(0, group)


def quantize_stack(
    weights: Sequence[Tensor], spec: FormatSpec, axes: tuple[int, ...], rngs: Draws | None = None
) -> list[Tensor]:
    """Weights [out, in] of one shape and dtype as [weights, out, in], each along each of `axes`: 0 (out) or 1 (in)."""
    if spec.is_none:
        return [torch.stack([weight.detach() for weight in weights])] * len(axes)
    refuse_dtype(weights[0], spec)
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if len(axes) == 2 and not FORMATS[spec.format].has_blocks and spec.round != "stochastic":
        return quantize_stack(weights, spec, axes[:1], draws[:1]) * 2
    if use_triton(weights[0].device):
        from quantctl.kernels import triton_grouped

        return triton_grouped.quantize_stack(weights, spec, axes, draws)
    stack = torch.stack([weight.detach() for weight in weights])
    if not has_tensor_scale(spec):
        return quantize_dequantize_along(stack, spec, tuple(axis + 1 for axis in axes), draws)
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
