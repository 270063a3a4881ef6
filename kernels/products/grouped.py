"""The three products of linear layers that lie beside each other, the experts of a mixture: each on its own tokens.

    fprop  Y_e  = X_e W_e^T    reduces in-features
    dgrad  dX_e = dY_e W_e     reduces out-features
    wgrad  dW_e = dY_e^T X_e   reduces the tokens of expert e

The operands of expert e are, bit for bit, those that linear.py gives it alone, but for the noise of stochastic
rounding. With bwd=quantized these are six quantizations in two passes: X and dY are read once for both of theirs, the
weights of all experts once for fprop and once for dgrad, or once a step (reuse.py). What wgrad needs of X waits for it
in the format's own bits (grouped_packed.py). Products are the library's grouped GEMM where it has one for the device
and dtype, else its GEMM in a loop over the experts. A call counts as one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import CPU, family_of
from quantctl.kernels.formats.quantize import draw_for
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.gradient_mode import keeps_autocast, once
from quantctl.kernels.products.grouped_gemm import rows_by_matrices, weights_of_groups
from quantctl.kernels.products.grouped_packed import dequantize_rows, quantize_rows_packed
from quantctl.kernels.products.grouped_quantize import quantize_rows
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.packed import Packed, is_recorded
from quantctl.kernels.products.reuse import quantized_stack
from quantctl.spec import FormatSpec


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    @keeps_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        ends: Tensor,
        counts: tuple[int, ...] | None,
        text: str,
        site: str,
        places: tuple[recorder.Place | None, ...] | None,
        *weights: Tensor,
    ) -> Tensor:
        spec = operands.resolve(text, site)
        operands.count(site, "fprop", text)
        ctx.places = places
        recorder.observe_groups(places, "fprop", spec, ends, {"input": (x, -1), "weight": (weights, 1)})
        if spec.bwd == "quantized":
            recorder.observe_groups(places, "wgrad", spec, ends, {"input": (x, 0)})
        ctx.text, ctx.site, ctx.counts = text, site, counts
        x_draw, ctx.weight_draw = draw_for(spec), draw_for(spec)
        tokens_draw = draw_for(spec) if spec.bwd == "quantized" and any(ctx.needs_input_grad[6:]) else None
        ctx.x_draws = x_draw, tokens_draw
        groups = Groups(x.shape[0], ends, counts)
        x, kept = _fprop_operand(ctx, x.contiguous(), groups, spec)
        ctx.save_for_backward(*kept, ends, *weights)
        return rows_by_matrices(x, quantized_stack(weights, spec, 1, ctx.weight_draw).transpose(1, 2), groups)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: some hooks give a tensor back once only
        *kept, ends = saved[:4]
        weights = saved[4:]
        spec = operands.resolve(ctx.text, ctx.site)
        needs_x, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[6:])
        if spec.bwd == "quantized" and needs_x:
            dgrad: Any = {"gradient": (grad, -1), "weight": (weights, 0)}
            recorder.observe_groups(ctx.places, "dgrad", spec, ends, dgrad)
        if spec.bwd == "quantized" and needs_weight:
            recorder.observe_groups(ctx.places, "wgrad", spec, ends, {"gradient": (grad, 0)})
        groups = Groups(grad.shape[0], ends, ctx.counts)
        for_x = for_weight = grad = grad.contiguous()
        if spec.bwd == "quantized":
            axes = tuple(axis for axis, needed in ((1, needs_x), (0, needs_weight)) if needed)
            by_axis = dict(zip(axes, quantize_rows(grad, groups, spec, axes), strict=True))
            for_x, for_weight = by_axis.get(1, grad), by_axis.get(0, grad)
        grad_x = None
        grad_weights: Sequence[Tensor | None] = (None,) * len(weights)
        if needs_x:
            operands.count(ctx.site, "dgrad", ctx.text)
            grad_x = rows_by_matrices(for_x, _weights_for_dgrad(weights, ctx.text, ctx.site, ctx.weight_draw), groups)
        if needs_weight:
            operands.count(ctx.site, "wgrad", ctx.text)
            grad_weights = weights_of_groups(for_weight, _wgrad_operand(ctx, kept, groups, spec), groups).unbind(0)
        return grad_x, None, None, None, None, None, *grad_weights


AXES = {"quantized": 0, "dequantized": 1}
"""Along which wgrad takes X, by the spec's `bwd`: tokens, or in-features as the forward did."""


def _fprop_operand(ctx: Any, x: Tensor, groups: Groups, spec: FormatSpec) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """X along in-features, and what wgrad needs of X, three tensors: X itself, or packed as ctx.layout then says."""
    ctx.layout = None
    needs_weight = any(ctx.needs_input_grad[6:])
    # a graph is recorded for later, whatever its context looks like when it is traced
    recorded = torch.compiler.is_compiling() or is_recorded(ctx)
    if needs_weight and recorded and spec.bwd in AXES and family_of(x) != CPU:
        x, packed, ctx.layout = quantize_rows_packed(x, groups, spec, AXES[spec.bwd], ctx.x_draws)
        return x, packed
    (operand,) = quantize_rows(x, groups, spec, (1,), ctx.x_draws[:1])
    return operand, (x if needs_weight else None, None, None)


def _wgrad_operand(ctx: Any, kept: Sequence[Tensor | None], groups: Groups, spec: FormatSpec) -> Tensor:
    """X from what _fprop_operand kept."""
    x = kept[0]
    assert x is not None
    if ctx.layout is not None:
        return dequantize_rows(Packed(x, *kept[1:]), ctx.layout, groups)
    if spec.bwd not in AXES:
        return x
    axis = AXES[spec.bwd]
    return quantize_rows(x, groups, spec, (axis,), (ctx.x_draws[1 - axis],))[0]


def _weights_for_dgrad(weights: Sequence[Tensor], text: str, site: str, forward_draw: Any) -> Tensor:
    """[experts, out, in]: along out-features, as the forward had them, or as they are, by the spec's `bwd`."""
    spec = operands.resolve(text, site)
    if spec.bwd == "quantized":
        return quantized_stack(weights, spec, 0)
    if spec.bwd == "dequantized":
        return quantized_stack(weights, spec, 1, forward_draw)
    return torch.stack([weight.detach() for weight in weights])


def grouped_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    tokens_per_expert: Sequence[int] | Tensor | Groups,
    spec: str,
    site: str = "linear",
    layers: Sequence[torch.nn.Module] | None = None,
) -> Tensor:
    """Each expert's linear layer on its tokens: x [tokens, in], weights of [out, in] each -> [tokens, out].

    The tokens of the first expert come first, then those of the second, and so on; an expert may have none. Counts in a
    tensor on a GPU are not read by the host: they have to add up to the tokens, and only where the GPU has no grouped
    GEMM for the dtype must they be read all the same. A Groups serves several calls. Differentiable in x and in each
    weight. layers: the modules whose weights they are, under whose names statistics are recorded.

    Raises QuantctlError for an unknown spec, and where the counts do not fit the tokens or the weights.
    """
    if isinstance(tokens_per_expert, Groups):
        groups = tokens_per_expert
    else:
        groups = Groups.of(tokens_per_expert, x.shape[0], x.device)
    if len(weights) != len(groups) or groups.rows != x.shape[0]:
        raise QuantctlError(
            f"{len(weights)} weights and {x.shape[0]} tokens for {len(groups)} groups of {groups.rows} tokens in all",
            "give one weight an expert, and the number of tokens of each",
        )
    if x.shape[1] != weights[0].shape[1] or len({(w.shape, w.dtype, w.device) for w in weights}) > 1:
        raise QuantctlError(
            f"tokens {tuple(x.shape)} do not fit weights {tuple(weights[0].shape)}, or the weights differ in kind",
            "give weights [out, in] of one shape, dtype and device",
        )
    places = recorder.places(site, layers, len(weights)) if recorder.ON else None
    output: Tensor = _GroupedLinear.apply(x, groups.ends, groups.counts, spec, site, places, *weights)
    return output
