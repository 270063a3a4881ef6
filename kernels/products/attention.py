"""The two products of unfused attention, with autograd.

    qk  S = scale * Q K^T   reduces the head dimension;  dQ = scale * dS K reduces keys,  dK = scale * dS^T Q queries
    pv  O = P V             reduces keys;                dP = dO V^T reduces the head dimension, dV = P^T dO queries

P are the normalized probabilities. The default of both sites is bwd=dequantized (straight-through); bwd=quantized
quantizes both operands of each gradient product along the axis that it reduces. The scale multiplies
the product, not an operand. The first operand's gradient counts as dgrad, the second one's (K, V) as wgrad.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.formats.quantize import draw_for, quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.gradient_mode import keeps_autocast, once

_NAMES = {"qk": ("query", "key"), "pv": ("probabilities", "value")}


class _QuantizedBmm(torch.autograd.Function):
    """scale * A B with A [n, rows, reduced], B [n, reduced, columns]."""

    @staticmethod
    @keeps_autocast
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: float | None, site: str, text: str) -> Tensor:
        spec = operands.resolve(text, site)
        operands.count(site, "fprop", text)
        ctx.save_for_backward(a, b)
        ctx.spec, ctx.scale, ctx.site, ctx.text = spec, scale, site, text
        ctx.place = recorder.place(site) if recorder.ON else None
        if ctx.place is not None:
            recorder.observe(ctx.place, "fprop", spec, dict(zip(_NAMES[site], ((a, 2), (b, 1)), strict=True)))
        ctx.draws = a_draw, b_draw = draw_for(spec), draw_for(spec)
        return _product(quantize_dequantize(a, spec, 2, rng=a_draw), quantize_dequantize(b, spec, 1, rng=b_draw), scale)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        a_draw, b_draw = ctx.draws
        grad_a = grad_b = None
        for_a = for_b = grad
        if ctx.spec.bwd == "quantized":
            axes = tuple(axis for axis, needed in zip((2, 1), ctx.needs_input_grad, strict=False) if needed)
            by_axis = dict(zip(axes, quantize_dequantize_along(grad, ctx.spec, axes), strict=True))  # dC is read once
            for_a, for_b = by_axis.get(2, grad), by_axis.get(1, grad)
            if ctx.place is not None:
                recorder.observe(ctx.place, "dgrad", ctx.spec, {"gradient": (grad, 2)})
                recorder.observe(ctx.place, "wgrad", ctx.spec, {"gradient": (grad, 1)})
        if ctx.needs_input_grad[0]:  # dA = scale * dC B^T reduces columns
            operands.count(ctx.site, "dgrad", ctx.text)
            b_in = operands.forward_operand_in_backward(b, ctx.spec, 2, 1, b_draw)
            grad_a = _scaled(torch.bmm(for_a, b_in.transpose(1, 2)), ctx.scale)
        if ctx.needs_input_grad[1]:  # dB = scale * A^T dC reduces rows
            operands.count(ctx.site, "wgrad", ctx.text)
            a_in = operands.forward_operand_in_backward(a, ctx.spec, 1, 2, a_draw)
            grad_b = _scaled(torch.bmm(a_in.transpose(1, 2), for_b), ctx.scale)
        return grad_a, grad_b, None, None, None


def _product(a: Tensor, b: Tensor, scale: float | None) -> Tensor:
    """As the stock flow computes it: baddbmm whose added matrix counts nothing for QK, bmm for PV."""
    if scale is None:
        return torch.bmm(a, b)
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0.0, alpha=scale)


def _scaled(product: Tensor, scale: float | None) -> Tensor:
    """The gradient of baddbmm as autograd computes it: the product first, rounded, then the factor."""
    return product if scale is None else product.mul_(scale)


def qk(query: Tensor, key_t: Tensor, softmax_scale: float, spec: str) -> Tensor:
    """softmax_scale * Q K^T: query [b*np, sq, hn], key_t [b*np, hn, sk] -> [b*np, sq, sk]."""
    if operands.resolve(spec, "qk").is_none:
        return _product(query, key_t, softmax_scale)
    scores: Tensor = _QuantizedBmm.apply(query, key_t, softmax_scale, "qk", spec)
    return scores


def pv(probs: Tensor, value: Tensor, spec: str) -> Tensor:
    """P V: probs [b*np, sq, sk], value [b*np, sk, hv] -> [b*np, sq, hv]."""
    if operands.resolve(spec, "pv").is_none:
        return _product(probs, value, None)
    context: Tensor = _QuantizedBmm.apply(probs, value, None, "pv", spec)
    return context
