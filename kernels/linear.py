"""The three products of a linear layer, as the patched layers of Megatron call them.

    fprop  Y  = X W^T   reduces in-features:  X along its last axis, W along its last
    dgrad  dX = dY W    reduces out-features: dY along its last axis, W along its first
    wgrad  dW = dY^T X  reduces tokens:       dY and X along the flattened tokens

With bwd=quantized these are six quantizations (arXiv 2506.08027), in as few passes as memory allows: dY and W are read
once for both of theirs, and W only once a step (reuse.py). The product is the library's, on dequantized operands: every
value of the formats is exact in bf16 (but NVFP4's, see there), so this emulates the format's own product with the
library's accumulation. `ctx` is the autograd context of the layer: it has quant_site (linear, lm_head) and quant_type,
the selector's string.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import operands
from quantctl.kernels.quantize import draw_for, quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.reuse import quantized_weight
from quantctl.spec import FormatSpec


def fprop_operands(ctx: Any, total_input: Tensor, weight: Tensor, *, one_pass: bool = False) -> tuple[Tensor, Tensor]:
    """X [..., in] and W [out, in] for X W^T, whichever GEMM then computes it. Keeps the draws of both on ctx.

    one_pass: also quantize X along tokens now if wgrad will want that; then ctx.quant_x is it, and wgrad does without
    X. It saves one read of X, and memory only for callers that do not keep X for the backward: Megatron's layers do.

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
    ctx.quant_x = None
    if one_pass and spec.bwd == "quantized" and _wgrad_follows(ctx) and total_input.is_contiguous():
        tokens = total_input.view(-1, total_input.shape[-1])
        x, ctx.quant_x = quantize_dequantize_along(tokens, spec, (1, 0), (input_draw, None))
        x = x.view_as(total_input)
    else:
        x = quantize_dequantize(total_input, spec, -1, rng=input_draw)
    return x, quantized_weight(weight, spec, 1, rng=weight_draw)


def fprop(ctx: Any, total_input: Tensor, weight: Tensor) -> Tensor:
    """X W^T: total_input [..., in], weight [out, in] -> [..., out]."""
    x, w = fprop_operands(ctx, total_input, weight)
    return torch.matmul(x, w.t())


def dgrad(ctx: Any, grad_output: Tensor, weight: Tensor) -> Tensor:
    """dY W: grad_output [..., out], weight [out, in] -> [..., in]."""
    spec = operands.resolve(ctx.quant_type, ctx.quant_site)
    operands.count(ctx.quant_site, "dgrad", ctx.quant_type)
    _, weight_draw = ctx.quant_draws
    dy = _gradient_for_dgrad(ctx, grad_output, spec)
    if spec.bwd == "quantized":
        weight = quantized_weight(weight, spec, 0)
    elif spec.bwd == "dequantized":
        weight = quantized_weight(weight, spec, 1, rng=weight_draw)
    return dy.matmul(weight)


def _wgrad_follows(ctx: Any) -> bool:
    return any(getattr(ctx, "needs_input_grad", ())[1:2])


def _gradient_for_dgrad(ctx: Any, grad_output: Tensor, spec: FormatSpec) -> Tensor:
    """dY along out-features. If wgrad is to follow, ctx gets dY along tokens, too: both in one pass over dY."""
    if spec.bwd != "quantized" or not _wgrad_follows(ctx) or not grad_output.is_contiguous():
        return operands.gradient_operand(grad_output, spec, -1)
    dy, by_tokens = quantize_dequantize_along(grad_output.view(-1, grad_output.shape[-1]), spec, (1, 0))
    ctx.quant_dy = (grad_output, grad_output._version, by_tokens)
    return dy.view_as(grad_output)


def _gradient_for_wgrad(ctx: Any, grad_output: Tensor, spec: FormatSpec) -> Tensor:
    """dY [tokens, out] along tokens: what dgrad has left on ctx, if that was made of the same values."""
    kept, ctx.quant_dy = getattr(ctx, "quant_dy", None), None
    if kept is not None:
        source, version, by_tokens = kept
        same_memory = source.data_ptr() == grad_output.data_ptr() and grad_output.is_contiguous()
        if same_memory and by_tokens.shape == grad_output.shape and source._version == version:
            return by_tokens
    return operands.gradient_operand(grad_output, spec, 0)


def wgrad_operands(ctx: Any, grad_output: Tensor, total_input: Tensor | None) -> tuple[Tensor, Tensor]:
    """dY [tokens, out] and X [tokens, in] for dY^T X, whichever GEMM then computes it. No X if ctx.quant_x is there.

    The bias gradient is to be taken from the caller's grad_output, not from this one.
    """
    spec = operands.resolve(ctx.quant_type, ctx.quant_site)
    operands.count(ctx.quant_site, "wgrad", ctx.quant_type)
    input_draw, _ = ctx.quant_draws
    x = ctx.quant_x
    if x is None:
        assert total_input is not None
        x = operands.forward_operand_in_backward(total_input, spec, 0, -1, input_draw)
    return _gradient_for_wgrad(ctx, grad_output, spec), x


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
        x_operand, w_operand = fprop_operands(ctx, x, weight, one_pass=True)
        ctx.save_for_backward(x if ctx.quant_x is None else None, weight)
        output = torch.matmul(x_operand, w_operand.t())
        return output if bias is None else output + bias

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_2d = grad_output.reshape(-1, grad_output.shape[-1])
        grad_x = dgrad(ctx, grad_output, weight) if needs_x else None
        grad_weight = None
        if needs_weight:
            dy, x_2d = wgrad_operands(ctx, grad_2d, None if x is None else x.reshape(-1, x.shape[-1]))
            grad_weight = dy.t().matmul(x_2d)
        return grad_x, grad_weight, grad_2d.sum(dim=0) if needs_bias else None, None, None


def quantized_linear(x: Tensor, weight: Tensor, bias: Tensor | None, spec: str, site: str = "linear") -> Tensor:
    """torch.nn.functional.linear with the three products in `spec`: x [..., in], weight [out, in], bias [out]."""
    output: Tensor = _QuantizedLinear.apply(x, weight, bias, spec, site)
    return output
