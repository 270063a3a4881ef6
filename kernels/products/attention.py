"""The two products of unfused attention, with autograd.

    qk  S = scale * Q K^T   reduces the head dimension;  dQ = scale * dS K reduces keys,  dK = scale * dS^T Q queries
    pv  O = P V             reduces keys;                dP = dO V^T reduces the head dimension, dV = P^T dO queries

P are the normalized probabilities. The default of both sites is bwd=dequantized (straight-through); formats of the
gradient products (bwd=quantized) quantize their operands along the axis that these reduce. The scale multiplies
the product, not an operand. The first operand's gradient counts as dgrad, the second one's (K, V) as wgrad.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.draws import rounding_for, signs_for, with_signs
from quantctl.kernels.products.gradient_mode import keeps_autocast, once
from quantctl.kernels.products.modules import Named, spec_now


class _QuantizedBmm(torch.autograd.Function):
    """scale * A B with A [n, rows, reduced], B [n, reduced, columns]."""

    @staticmethod
    @keeps_autocast
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: float | None, site: str, text: str, layer: Named | None
    ) -> Tensor:
        specs = operands.resolve(text, site)
        operands.count(site, "fprop", text, layer)
        ctx.save_for_backward(a, b)
        ctx.specs, ctx.scale, ctx.site, ctx.text, ctx.layer = specs, scale, site, text, layer
        ctx.place = recorder.place(site) if recorder.ON else None
        if ctx.place is not None:
            recorder.observe(ctx.place, "fprop", specs, (a, 2), (b, 1))
        first, second = (own.spec for own in specs.fprop)
        rounding = rounding_for(first), rounding_for(second)
        ctx.signs = signs_for(specs)
        sizes = (a.shape[2], b.shape[2], a.shape[1])
        operands.check_sizes(specs, sizes, f"{layer.name if layer else 'attention'} ({site}={text})")
        a_draw, b_draw = ctx.draws = tuple(with_signs(draw, ctx.signs[0]) for draw in rounding)
        return _product(
            quantize_dequantize(a, first, 2, rng=a_draw), quantize_dequantize(b, second, 1, rng=b_draw), scale
        )

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        a_draw, b_draw = ctx.draws
        specs, needed = ctx.specs, ctx.needs_input_grad[:2]
        grad_a = grad_b = None
        for_a, for_b = operands.gradients(grad, specs, (2, 1), needed, ctx.signs)  # dC is read once
        if ctx.place is not None:
            recorder.observe(ctx.place, "dgrad", specs, (grad, 2), None)
            recorder.observe(ctx.place, "wgrad", specs, (grad, 1), None)
        if needed[0]:  # dA = scale * dC B^T reduces columns
            operands.count(ctx.site, "dgrad", ctx.text, ctx.layer)
            own_b = with_signs(rounding_for(specs.dgrad[1].spec), ctx.signs[1])
            b_in = operands.forward_operand_in_backward(b, specs.fprop[1], specs.dgrad[1], (1, 2), (b_draw, own_b))
            grad_a = _scaled(torch.bmm(for_a, b_in.transpose(1, 2)), ctx.scale)
        if needed[1]:  # dB = scale * A^T dC reduces rows
            operands.count(ctx.site, "wgrad", ctx.text, ctx.layer)
            own_a = with_signs(rounding_for(specs.wgrad[1].spec), ctx.signs[2])
            a_in = operands.forward_operand_in_backward(a, specs.fprop[0], specs.wgrad[1], (2, 1), (a_draw, own_a))
            grad_b = _scaled(torch.bmm(a_in.transpose(1, 2), for_b), ctx.scale)
        return grad_a, grad_b, None, None, None, None


def _product(a: Tensor, b: Tensor, scale: float | None) -> Tensor:
    """As the stock flow computes it: baddbmm whose added matrix counts nothing for QK, bmm for PV."""
    if scale is None:
        return torch.bmm(a, b)
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0.0, alpha=scale)


def _scaled(product: Tensor, scale: float | None) -> Tensor:
    """The gradient of baddbmm as autograd computes it: the product first, rounded, then the factor."""
    return product if scale is None else product.mul_(scale)


def qk(query: Tensor, key_t: Tensor, softmax_scale: float, spec: str, layer: Named | None = None) -> Tensor:
    """softmax_scale * Q K^T: query [b*np, sq, hn], key_t [b*np, hn, sk] -> [b*np, sq, sk].

    spec: the selector's value. layer: the module that computes it, where the model has named it (modules.py).
    """
    return _either(query, key_t, softmax_scale, "qk", spec, layer)


def pv(probs: Tensor, value: Tensor, spec: str, layer: Named | None = None) -> Tensor:
    """P V: probs [b*np, sq, sk], value [b*np, sk, hv] -> [b*np, sq, hv]. spec, layer: as in qk."""
    return _either(probs, value, None, "pv", spec, layer)


def _either(a: Tensor, b: Tensor, scale: float | None, site: str, spec: str, layer: Named | None) -> Tensor:
    text = spec_now(spec, site, layer)
    if operands.resolve(text, site).is_none:
        operands.count(site, "fprop", text, layer)
        return _product(a, b, scale)
    result: Tensor = _QuantizedBmm.apply(a, b, scale, site, text, layer)
    return result
