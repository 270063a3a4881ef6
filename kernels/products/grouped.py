"""The three products of linear layers that lie beside each other, the experts of a mixture: each on its own tokens.

    fprop  Y_e  = X_e W_e^T    reduces in-features
    dgrad  dX_e = dY_e W_e     reduces out-features
    wgrad  dW_e = dY_e^T X_e   reduces the tokens of expert e

The operands of expert e are, bit for bit, those that linear.py gives it alone, but for the noise of stochastic rounding
and random signs, which are one draw of all. With bwd=quantized these are six quantizations in two passes: X and dY are
read once for both of theirs, the weights of all experts once for fprop and once for dgrad, or once a step (reuse.py).
What wgrad needs of X waits for it in the format's own bits (grouped_packed.py). Products are the library's grouped GEMM
where it has one for the device and dtype, else its GEMM in a loop over the experts. A call counts as one product, or as
one of each named expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.hadamard import size_of
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.draws import LinearDraws
from quantctl.kernels.products.gradient_mode import keeps_autocast, once
from quantctl.kernels.products.grouped_gemm import rows_by_matrices, weights_of_groups
from quantctl.kernels.products.grouped_packed import dequantize_rows, quantize_rows_kept
from quantctl.kernels.products.grouped_quantize import filled, quantize_rows
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.modules import Named, spec_now
from quantctl.kernels.products.packed import Packed, is_recorded
from quantctl.kernels.products.plan import plan_of
from quantctl.kernels.products.reuse import quantized_stack
from quantctl.spec import FORWARD


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
        layers: tuple[Named | None, ...],
        places: tuple[recorder.Place | None, ...] | None,
        *weights: Tensor,
    ) -> Tensor:
        plan = ctx.plan = plan_of(text, site)
        ctx.specs = specs = plan.specs
        ctx.text, ctx.site, ctx.counts, ctx.layers, ctx.places = text, site, counts, layers, places
        _count(ctx, "fprop")
        ctx.draws = plan.draws or LinearDraws.of(specs)
        groups = Groups(x.shape[0], ends, counts)
        operand, kept = _fprop_operand(ctx, x.contiguous(), groups)
        if places is not None:
            recorder.observe_groups(places, "fprop", specs, ends, (x, -1), (weights, 1))
            begin, own = _for_wgrad(ctx, operands.begin(specs.wgrad[1], x, operand), groups)
            recorder.observe_groups(places, "wgrad", specs, own.ends, None, (begin, 0))
        ctx.save_for_backward(*kept, ends, *weights)
        stack = quantized_stack(weights, specs, "fprop", ctx.draws.weight)
        return rows_by_matrices(operand, stack.transpose(1, 2), groups)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: some hooks give a tensor back once only
        *kept, ends = saved[:4]
        weights, specs = saved[4:], ctx.specs
        groups = Groups(grad.shape[0], ends, ctx.counts)
        _observe_backward(ctx, grad, weights, groups)
        needed, signs = _needed(ctx), ctx.draws.signs
        for_x, for_weight = operands.gradients(grad.contiguous(), specs, (1, 0), needed, signs, _rows_of(groups))
        grad_x = None
        grad_weights: Sequence[Tensor | None] = (None,) * len(weights)
        if needed[0]:
            _count(ctx, "dgrad")
            stack = quantized_stack(weights, specs, "dgrad", ctx.draws.weight, signs[1])
            grad_x = rows_by_matrices(for_x, stack, groups)
        if needed[1]:
            _count(ctx, "wgrad")
            own = groups.filled(size_of(specs.wgrad[0].spec))
            grad_weights = weights_of_groups(for_weight, _wgrad_operand(ctx, kept, groups), own).unbind(0)
        return grad_x, None, None, None, None, None, None, *grad_weights


def _needed(ctx: Any) -> tuple[bool, bool]:
    """Whether the gradients of X, and of any weight, are asked for."""
    return ctx.needs_input_grad[0], any(ctx.needs_input_grad[7:])


def _count(ctx: Any, product: str) -> None:
    for layer in ctx.layers:
        operands.count(ctx.site, product, ctx.text, layer)


def _observe_backward(ctx: Any, grad: Tensor, weights: tuple[Tensor, ...], groups: Groups) -> None:
    if ctx.places is None:
        return
    specs, needed = ctx.specs, _needed(ctx)
    if needed[0]:
        begin = (
            weights if specs.dgrad[1].source != FORWARD else quantized_stack(weights, specs, "fprop", ctx.draws.weight)
        )
        recorder.observe_groups(ctx.places, "dgrad", specs, groups.ends, (grad, -1), (tuple(begin), 0))
    if needed[1]:
        rows, own = _for_wgrad(ctx, grad, groups)
        recorder.observe_groups(ctx.places, "wgrad", specs, own.ends, (rows, 0), None)


def _for_wgrad(ctx: Any, x: Tensor, groups: Groups) -> tuple[Tensor, Groups]:
    """The rows that wgrad reduces."""
    return filled(x, groups, ctx.specs.wgrad[0].spec, 0)


def _rows_of(groups: Groups) -> operands.Quantize:
    return lambda x, spec, axes, draws: quantize_rows(x, groups, spec, axes, draws)


def _fprop_operand(ctx: Any, x: Tensor, groups: Groups) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """X along in-features, and what wgrad needs of X, three tensors: X itself, or packed as ctx.layout then says."""
    ctx.layout, specs = None, ctx.specs
    # a graph is recorded for later, whatever its context looks like when it is traced
    recorded = torch.compiler.is_compiling() or is_recorded(ctx)
    if _needed(ctx)[1] and recorded and (way := ctx.plan.kept) is not None:
        values, packed, ctx.layout = quantize_rows_kept(x, groups, way, specs, (ctx.draws.x, ctx.draws.tokens))
        return values, packed
    (operand,) = quantize_rows(x, groups, specs.fprop[0].spec, (1,), (ctx.draws.x,))
    return operand, (x if _needed(ctx)[1] else None, None, None)


def _wgrad_operand(ctx: Any, kept: Sequence[Tensor | None], groups: Groups) -> Tensor:
    """X from what _fprop_operand kept."""
    x, specs = kept[0], ctx.specs
    assert x is not None
    if ctx.layout is not None:
        return dequantize_rows(Packed(x, *kept[1:]), ctx.layout, groups.filled(size_of(specs.wgrad[1].spec)))
    draws, quantize = (ctx.draws.x, ctx.draws.tokens), _rows_of(groups)
    return operands.forward_operand_in_backward(x, specs.fprop[0], specs.wgrad[1], (1, 0), draws, quantize)


def one_spec(layers: Sequence[Any], spec: str, site: str = "linear") -> str | None:
    """The spec that holds now for all of these modules, of which each may have its own; None if they differ."""
    specs = {spec_now(spec, site, getattr(layer, "quant_layer", None)) for layer in layers}
    return specs.pop() if len(specs) == 1 else None


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
    weight. spec: the selector's value. layers: the modules whose weights they are, one each or one that holds them all,
    under whose names statistics are recorded; where the model has named them (modules.py) they say what holds for them,
    which must be one spec.

    Raises QuantctlError for an unknown spec, for experts of several, where the counts do not fit the tokens or the
    weights, and for a Hadamard transform that does not divide the features that its product reduces.
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
    text = one_spec(layers or (None,), spec, site)
    if text is None:
        raise QuantctlError(f"{site}={spec}: the experts differ in what holds for them", "compute them one by one")
    each = layers if layers is not None and len(layers) == len(weights) else None
    places = recorder.places(site, each, len(weights)) if recorder.ON else None
    # experts of which one thing is said have one name, under which a call counts once
    given = (getattr(layer, "quant_layer", None) for layer in layers or ())
    named = {one.name: one for one in given if isinstance(one, Named)}
    of_layers = tuple(named.values()) or (None,)
    plan = plan_of(text, site)
    if plan.is_transformed:  # rows are added to the tokens of each until it divides them
        where = ", ".join(named) or "experts"
        operands.check_sizes(plan.specs, (x.shape[1], weights[0].shape[0], 0), f"{where} ({site}={text})")
    output: Tensor = _GroupedLinear.apply(x, groups.ends, groups.counts, text, site, of_layers, places, *weights)
    return output
