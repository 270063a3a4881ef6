"""Attention in one kernel: O = softmax(scale * Q K^T + mask) V, with Q K^T and P V in the formats of their selectors.

It computes the same function as the unfused flow (attention.py) with the same specs, without a tensor of sequence x
sequence values. What differs is where numbers are rounded between the products:

    scores         fp32 (unfused: the training dtype; --attention-softmax-in-fp32 converts them behind that)
    probabilities  exp(S - max) in the operands' dtype, divided by their sum behind the product (unfused: normalized,
                   then rounded); where PV is quantized this matters, and fused_pv.py normalizes first
    masked scores  -infinity (unfused: -10000, which is the same as long as a row's largest score is above -9800)

QK: Q and K are quantized once, along the head dimension, before keys are repeated for grouped queries, which is the
same as after. bwd=dequantized (the default) is the library's attention on the quantized Q and K; the gradients that it
returns for them are those of Q and K (straight-through). bwd=high_precision wants dQ = scale * dS K and
dK = scale * dS^T Q with the unquantized K and Q, while dS comes from the quantized ones: the library's backward has one
Q and one K for both, so fused_pv.py computes that, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantctl.kernels.formats.quantize import DTYPES, draw_for, quantize_dequantize
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import fused_pv, operands
from quantctl.kernels.products.gradient_mode import keeps_autocast, once


class _QuantizedOperands(torch.autograd.Function):
    """Q and K through their format, or as they are; their gradients pass unchanged and are counted."""

    @staticmethod
    @keeps_autocast
    def forward(ctx: Any, q: Tensor, k: Tensor, text: str, quantized: bool) -> tuple[Tensor, Tensor]:
        ctx.text, ctx.site = text, "qk"
        return _quantize(q, k, text) if quantized else (q.view_as(q), k.view_as(k))

    @staticmethod
    @once
    def backward(ctx: Any, grad_q: Tensor | None, grad_k: Tensor | None) -> tuple[Tensor | None, ...]:
        for needed, product in zip(ctx.needs_input_grad, ("dgrad", "wgrad"), strict=False):
            if needed:
                operands.count("qk", product, ctx.text)
        return grad_q, grad_k, None, None


def _quantize(q: Tensor, k: Tensor, text: str) -> tuple[Tensor, Tensor]:
    spec = operands.resolve(text, "qk")
    if recorder.ON:
        recorder.observe(recorder.place("qk"), "fprop", spec, {"query": (q, -1), "key": (k, -1)})
    q_draw, k_draw = draw_for(spec), draw_for(spec)
    return quantize_dequantize(q, spec, -1, rng=q_draw), quantize_dequantize(k, spec, -1, rng=k_draw)


def _alone(v: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """V for the backward. Megatron's V is a part of the tensor that the projection gave, of which Q and K are no longer
    parts once they are rotated or quantized: keeping V would keep all of it, several times V's bytes.
    """
    storages = [x.untyped_storage() for x in (v, q, k)]
    shared = storages[0].data_ptr() in (storage.data_ptr() for storage in storages[1:])
    return v if shared or storages[0].nbytes() == v.nbytes else v.clone(memory_format=torch.contiguous_format)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """The library's attention on [s, b, heads, d] without a copy; K and V may have fewer heads."""
    width = v.size(-1)
    if q.size(-1) != width and q.device.type == "cpu":
        # the CPU's fused kernel takes one width only; without it torch would build the matrix of all scores
        wider = max(q.size(-1), width)
        q, k, v = (F.pad(x, (0, wider - x.size(-1))) for x in (q, k, v))
    grouped = q.size(2) != k.size(2)
    if grouped and q.is_cuda and q.dtype == torch.float32:
        # no fused kernel takes fewer K/V heads in fp32; torch would build the matrix of all scores
        k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2) for x in (k, v))
        grouped = False
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out[..., :width].permute(2, 0, 1, 3)


def by_library(*, qk: str, pv: str) -> bool:
    """Whether torch's scaled_dot_product_attention computes calls with these selectors, else fused_pv."""
    return operands.resolve(pv, "pv").is_none and operands.resolve(qk, "qk").bwd != "high_precision"


def why_not(q: Tensor, k: Tensor, v: Tensor, *, qk: str, pv: str) -> str | None:
    """Why these operands and specs have no fused kernel, in words; None if they have one.

    Raises QuantctlError for an unknown spec.
    """
    if operands.resolve(qk, "qk").bwd == "quantized":
        return "qk has bwd=quantized, whose gradient products quantize the gradients of the scores"
    if not by_library(qk=qk, pv=pv):
        return fused_pv.why_not(q, k, v, pv=pv)
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        return f"the operands are {', '.join(sorted({str(x.dtype) for x in (q, k, v)}))}"
    return None


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool, qk: str, pv: str) -> Tensor:
    """softmax(scale * Q K^T) V, differentiable.

    q [s, b, heads, d_qk], k [s, b, groups, d_qk], v [s, b, groups, d_v] in bf16, fp16 or fp32, any strides; head h
    uses group h // (heads // groups). qk, pv: the selectors' values. Returns [s, b, heads, d_v].

    Stochastic rounding draws once for each group of K, where the unfused flow draws for each repetition of it.
    Calls for which `why_not` has a reason are not to be made.
    """
    operands.count("qk", "fprop", qk)
    spec = operands.resolve(qk, "qk")
    scores_of = _quantize(q, k, qk) if spec.bwd == "high_precision" else None
    if not spec.is_none:
        q, k = _QuantizedOperands.apply(q, k, qk, scores_of is None)
    if operands.resolve(pv, "pv").bwd != "dequantized" and torch.is_grad_enabled():
        v = _alone(v, q, k)
    if by_library(qk=qk, pv=pv):
        return _sdpa(q, k, v, scale, causal)
    return fused_pv.attention_pv(q, k, v, scale=scale, causal=causal, pv=pv, scores_of=scores_of)
