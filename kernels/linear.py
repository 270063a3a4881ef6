"""The three products of a linear layer, as the patched layers of Megatron call them.

    fprop  Y  = X W^T   reduces in-features:  X along its last axis, W along its last
    dgrad  dX = dY W    reduces out-features: dY along its last axis, W along its first
    wgrad  dW = dY^T X  reduces tokens:       dY and X along the flattened tokens

With bwd=quantized these are six quantizations (arXiv 2506.08027). The product is the library's, on
dequantized operands: every value of the formats is exact in bf16, so this emulates the format's own product with
the library's accumulation. `ctx` is the autograd context of the layer: it has quant_site (linear, lm_head) and
quant_type, the selector's string.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import operands
from quantctl.kernels.quantize import draw_for, quantize_dequantize


def fprop_operands(ctx: Any, total_input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """X [..., in] and W [out, in] for X W^T, whichever GEMM then computes it. Keeps the draws of both on ctx.

    Raises QuantctlError for an unknown spec, and for --defer-embedding-wgrad-compute, whose
    wgrad is computed elsewhere.
    """
    spec = operands.resolve(ctx.quant_type, ctx.quant_site)
    if not spec.is_none and getattr(ctx, "grad_output_buffer", None) is not None:
        raise QuantctlError(
            f"{ctx.quant_site}={ctx.quant_type}: --defer-embedding-wgrad-compute computes the output layer's weight "
            "gradient outside of the layer, where it would stay unquantized",
            f"drop --defer-embedding-wgrad-compute, or set {ctx.quant_site} to none",
        )
    operands.count(ctx.quant_site, "fprop", ctx.quant_type)
    ctx.quant_draws = input_draw, weight_draw = draw_for(spec), draw_for(spec)
    x = quantize_dequantize(total_input, spec, -1, rng=input_draw)
    w = quantize_dequantize(weight, spec, -1, rng=weight_draw)
    return x, w


def fprop(ctx: Any, total_input: Tensor, weight: Tensor) -> Tensor:
    """X W^T: total_input [..., in], weight [out, in] -> [..., out]."""
    x, w = fprop_operands(ctx, total_input, weight)
    return torch.matmul(x, w.t())


def dgrad(ctx: Any, grad_output: Tensor, weight: Tensor) -> Tensor:
    """dY W: grad_output [..., out], weight [out, in] -> [..., in]."""
    spec = operands.resolve(ctx.quant_type, ctx.quant_site)
    operands.count(ctx.quant_site, "dgrad", ctx.quant_type)
    _, weight_draw = ctx.quant_draws
    dy = operands.gradient_operand(grad_output, spec, -1)
    w = operands.forward_operand_in_backward(weight, spec, 0, -1, weight_draw)
    return dy.matmul(w)


def wgrad_operands(ctx: Any, grad_output: Tensor, total_input: Tensor) -> tuple[Tensor, Tensor]:
    """dY [tokens, out] and X [tokens, in] for dY^T X, whichever GEMM then computes it.

    The bias gradient is to be taken from the caller's grad_output, not from this one.
    """
    spec = operands.resolve(ctx.quant_type, ctx.quant_site)
    operands.count(ctx.quant_site, "wgrad", ctx.quant_type)
    input_draw, _ = ctx.quant_draws
    dy = operands.gradient_operand(grad_output, spec, 0)
    x = operands.forward_operand_in_backward(total_input, spec, 0, -1, input_draw)
    return dy, x


def check_head(layer: Any, spec: str) -> None:
    """Raises QuantctlError if a model's output layer is not one of Megatron's own, whose products come here."""
    names = [base.__name__ for base in type(layer).__mro__]
    if "ColumnParallelLinear" not in names and not operands.resolve(spec, "lm_head").is_none:
        raise QuantctlError(
            f"lm_head={spec}: the output layer is a {names[0]}, which computes its products itself",
            "drop --fp8-output-proj, or set lm_head to none",
        )


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spec: str, site: str) -> Tensor:
        ctx.quant_type, ctx.quant_site = spec, site
        ctx.save_for_backward(x, weight)
        output = fprop(ctx, x, weight)
        return output if bias is None else output + bias

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_2d = grad_output.reshape(-1, grad_output.shape[-1])
        grad_x = dgrad(ctx, grad_output, weight) if needs_x else None
        grad_weight = None
        if needs_weight:
            dy, x_2d = wgrad_operands(ctx, grad_2d, x.reshape(-1, x.shape[-1]))
            grad_weight = dy.t().matmul(x_2d)
        return grad_x, grad_weight, grad_2d.sum(dim=0) if needs_bias else None, None, None


def quantized_linear(x: Tensor, weight: Tensor, bias: Tensor | None, spec: str, site: str = "linear") -> Tensor:
    """torch.nn.functional.linear with the three products in `spec`: x [..., in], weight [out, in], bias [out]."""
    output: Tensor = _QuantizedLinear.apply(x, weight, bias, spec, site)
    return output
