"""Attention in one kernel: O = softmax(scale * Q K^T + mask) V, with Q K^T and P V in the formats of their selectors.

It computes the same function as the unfused flow (attention.py) with the same specs, without a tensor of sequence x
sequence values. What differs is where numbers are rounded between the products:

    scores         fp32 (unfused: the training dtype; --attention-softmax-in-fp32 converts them behind that)
    probabilities  exp(S - max) in the operands' dtype, divided by their sum behind the product (unfused: normalized,
                   then rounded); where PV is quantized this matters, and fused_pv.py normalizes first
    masked scores  -infinity (unfused: -10000, which is the same as long as a row's largest score is above -9800)

QK: Q and K are quantized once, each to its format, along the head dimension, before keys are repeated for grouped
queries, which is the same as after. bwd=dequantized (the default) is the library's attention on the quantized Q and K;
the gradients that it returns for them are those of Q and K (straight-through). dQ = scale * dS K and
dK = scale * dS^T Q may want other K and Q than those that dS comes from: as they are (bwd=high_precision), or in
formats of their own. The library's backward has one Q and one K for both, so fused_pv.py computes that, too. dS is
never whole and cannot be quantized.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantctl.kernels.dispatch import FLASH, supports
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.hadamard import is_wanted
from quantctl.kernels.formats.quantize import DTYPES, draw_for, quantize_dequantize
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import fused_pv, operands
from quantctl.kernels.products.gradient_mode import keeps_autocast, once
from quantctl.kernels.products.modules import Named
from quantctl.spec import FORWARD, NONE, FormatSpec, Operand, ProductSpecs


class _StraightThrough(torch.autograd.Function):
    """Q and K as the gradient products take them; their gradients pass unchanged and are counted."""

    @staticmethod
    @keeps_autocast
    def forward(
        ctx: Any, q: Tensor, k: Tensor, q_in: Tensor, k_in: Tensor, text: str, layer: Named | None
    ) -> tuple[Tensor, Tensor]:
        ctx.text, ctx.layer, ctx.site = text, layer, "qk"
        return q_in.view_as(q_in), k_in.view_as(k_in)

    @staticmethod
    @once
    def backward(ctx: Any, grad_q: Tensor | None, grad_k: Tensor | None) -> tuple[Tensor | None, ...]:
        for needed, product in zip(ctx.needs_input_grad, ("dgrad", "wgrad"), strict=False):
            if needed:
                operands.count("qk", product, ctx.text, ctx.layer)
        return grad_q, grad_k, None, None, None, None


_HEAD, _SEQUENCE = -1, 0
"""Axes of [s, b, heads, d]."""


def _quantized(q: Tensor, k: Tensor, specs: ProductSpecs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Q and K as the scores take them, and as dK and dQ do."""
    place = recorder.place("qk") if recorder.ON else None
    recorder.observe(place, "fprop", specs, (q, _HEAD), (k, _HEAD))
    draws = draw_for(specs.fprop[0].spec), draw_for(specs.fprop[1].spec)
    scores_of = tuple(
        quantize_dequantize(x, own.spec, _HEAD, rng=draw)
        for x, own, draw in zip((q, k), specs.fprop, draws, strict=True)
    )
    begin = operands.begin(specs.wgrad[1], q, scores_of[0]), operands.begin(specs.dgrad[1], k, scores_of[1])
    recorder.observe(place, "wgrad", specs, None, (begin[0], _SEQUENCE))
    recorder.observe(place, "dgrad", specs, None, (begin[1], _SEQUENCE))
    q_in = quantize_dequantize(begin[0], specs.wgrad[1].spec, _SEQUENCE)
    k_in = quantize_dequantize(begin[1], specs.dgrad[1].spec, _SEQUENCE)
    return (scores_of[0], scores_of[1]), (q_in, k_in)


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


def _is_forwards(forward: Operand, own: Operand) -> bool:
    """Whether a gradient product's operand is the very one of the forward."""
    return own.spec.is_none and (own.source == FORWARD or forward.spec.is_none)


def _has_one_of_each(specs: ProductSpecs) -> bool:
    """Whether the gradient products take the Q and K that the scores come from."""
    return _is_forwards(specs.fprop[1], specs.dgrad[1]) and _is_forwards(specs.fprop[0], specs.wgrad[1])


def _is_along_a_head(spec: FormatSpec) -> bool:
    """Whether Q's and K's blocks are the same in [s, b, heads, d] as in [b * heads, s, d]: squares are not."""
    return block_of(spec, 1).across <= 1


def by_library(*, qk: str, pv: str) -> bool:
    """Whether torch's scaled_dot_product_attention computes calls with these specs, else fused_pv."""
    return operands.resolve(pv, "pv").is_none and _has_one_of_each(operands.resolve(qk, "qk"))


def why_not(q: Tensor, k: Tensor, v: Tensor, *, qk: str, pv: str) -> str | None:
    """Why these operands and specs have no fused kernel, in words; None if they have one.

    Raises QuantctlError for an unknown spec.
    """
    for site, text in (("qk", qk), ("pv", pv)):
        found = [own.spec for _, own in operands.resolve(text, site).items() if not own.spec.is_none]
        if any(is_wanted(spec) or (site == "qk" and not _is_along_a_head(spec)) for spec in found):
            return f"{site}={text} is computed by the unfused flow only"
    probabilities = operands.resolve(pv, "pv").fprop[0].spec
    if not probabilities.is_none and not supports(FLASH, probabilities):
        return f"pv={pv} has blocks of probabilities that are wider than a tile of fused attention"
    if fused_pv.quantizes_gradients(operands.resolve(qk, "qk")):
        return f"qk={qk} quantizes the gradients of the scores, which only the unfused flow has"
    if not by_library(qk=qk, pv=pv):
        return fused_pv.why_not(q, k, v, pv=pv)
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        return f"the operands are {', '.join(sorted({str(x.dtype) for x in (q, k, v)}))}"
    return None


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool, qk: str, pv: str, layer: Named | None = None
) -> Tensor:
    """softmax(scale * Q K^T) V, differentiable.

    q [s, b, heads, d_qk], k [s, b, groups, d_qk], v [s, b, groups, d_v] in bf16, fp16 or fp32, any strides; head h
    uses group h // (heads // groups). qk, pv: the specs that hold, without rules; layer: the module that they hold for,
    where the model has named it. Returns [s, b, heads, d_v].

    Stochastic rounding draws once for each group of K, where the unfused flow draws for each repetition of it.
    Calls for which `why_not` has a reason are not to be made.
    """
    operands.count("qk", "fprop", qk, layer)
    specs, scores_of = operands.resolve(qk, "qk"), None
    if not specs.is_none:
        scores_of, (q_in, k_in) = _quantized(q, k, specs)
        q, k = _StraightThrough.apply(q, k, q_in, k_in, qk, layer)
    if _has_one_of_each(specs):
        scores_of = None
    of_v = operands.resolve(pv, "pv")
    if of_v.dgrad[1] == Operand(FormatSpec(NONE)) and torch.is_grad_enabled():
        v = _alone(v, q, k)
    if by_library(qk=qk, pv=pv):
        operands.count("pv", "fprop", pv, layer)
        return _sdpa(q, k, v, scale, causal)
    return fused_pv.attention_pv(q, k, v, scale=scale, causal=causal, pv=pv, scores_of=scores_of, layer=layer)
