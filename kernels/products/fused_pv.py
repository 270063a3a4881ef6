"""Attention with quantized probabilities and values in O(sequence) memory, with autograd.

    S = scale * Qs Ks^T,  P = softmax(S) over the allowed keys,  O = Q(P) Q(V), both in blocks along keys

and for the gradient, with P in full precision in the softmax's derivative (straight-through):

    dP = dO V'^T,  dS = P * (dP - rowsum(P * dP)),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P'^T dO

bwd=dequantized: V' and P' are the forward's quantized operands; high_precision: V and P as they are. V' may have a
format of its own, in blocks along the head dimension; P', whose blocks would lie along queries, may not. P counts as a
tensor of the operands' dtype: it is rounded to that before its format sees it, as in Megatron's own flow. S, dP and
sums stay in fp32, where the unfused flow in bf16 rounds them; dS is rounded to the dtype as an operand of dQ and dK.
The heads of a group share K and V, which are never expanded.

Against attention.py in fp32 on the same operands only the order of sums differs, and exp2 stands for exp. With n keys,
heads of d, u = 2^-24 and a = max scale |Q| |K|^T (test_fused_pv.py computes these bounds from the data):

- P differs by a factor 1 +- delta at most, delta = 2 u (2 e + n + 3), e = 2 (d + 2) a + 6 a + 4. On either side the
  score and the maximum are sums of d products, the exponent's three roundings are of |S - max| <= 2 a, exp2 is within 2
  ulp on a GPU, and the sum has n positive terms. A peaked softmax is safe under scale=floor, which makes 7/8 of a P one
  ulp below 1: P is the correctly rounded 1 / sum times exp2(0) there. On a GPU P < 2^-126 is 0.
- Each code of Q(P) is that of some P (1 +- delta). For evenly spread P and m mantissa bits a fraction of
  delta (2^(m+2) + 3) lies near enough to a boundary between codes or between block scales to differ; 35 delta for E4M3.
- |error of O| <= W |Q(V)| + 2 (n + 2) u Q(P) |Q(V)| with W = Q(P (1 + delta)) - Q(P (1 - delta)), and dV likewise.
- dS errs by P (E + rowsum(P E) + (3 delta + 2 (n + 4) u) (|dP| + rowsum(P |dP|))), E = 2 (d_v + 2) u |dO| |V'|^T; dQ
  and dK by that times |K| or |Q|, and in bf16 and fp16 by the rounding of dS besides.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import TRITON, family_of
from quantctl.kernels.formats.quantize import DTYPES, draw_for, quantize_dequantize
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.flash_call import Call, Operands
from quantctl.kernels.products.gradient_mode import product_dtype, refuse_second_gradient, without_autocast
from quantctl.kernels.products.modules import Named
from quantctl.spec import FORWARD, NONE, FormatSpec, ProductSpecs

QUERIES_OR_KEYS = 2
"""The sequence's axis in [batch, heads, sequence, d]."""
_HEAD = 3


def _implementation(q: Tensor) -> ModuleType:
    if family_of(q) == TRITON:
        from quantctl.kernels.triton import flash as triton_flash

        return triton_flash
    from quantctl.kernels.products import fused_pv_reference

    return fused_pv_reference


def _by_head(x: Tensor) -> Tensor:
    """[sequence, batch, heads, d] as [batch, heads, sequence, d], and back with `_by_position`."""
    return x.permute(1, 2, 0, 3)


def _by_position(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1, 3)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores_of: tuple[Tensor, Tensor] | None, scale: float,
                causal: bool, text: str, layer: Named | None) -> Tensor:  # fmt: skip
        specs = operands.resolve(text, "pv")
        operands.count("pv", "fprop", text, layer)
        place = recorder.place("pv") if recorder.ON else None
        # the probabilities, which are never whole here, are recorded in the unfused flow only
        recorder.observe(place, "fprop", specs, None, (v, 0))
        ctx.text, ctx.layer, ctx.computes = text, layer, all(x.numel() for x in (q, k, v))
        if not ctx.computes:
            ctx.save_for_backward(q, k, v)
            return q.new_zeros(*q.shape[:3], v.shape[3])
        # in the unfused flow's order
        p_draw, v_draw = draw_for(specs.fprop[0].spec), draw_for(specs.fprop[1].spec)
        call = Call(scale, causal, specs.fprop[0].spec, p_draw)
        values = _by_head(v)
        quantized = quantize_dequantize(values, specs.fprop[1].spec, QUERIES_OR_KEYS, rng=v_draw)
        q_scores, k_scores = scores_of or (q, k)
        out, saved = _implementation(q).forward(_by_head(q_scores), _by_head(k_scores), quantized, call)
        begin = operands.begin(specs.dgrad[1], values, quantized)
        recorder.observe(place, "dgrad", specs, None, (begin, _HEAD))
        quantized = quantize_dequantize(begin, specs.dgrad[1].spec, _HEAD)
        if specs.wgrad[1].source != FORWARD:
            call = Call(scale, causal, FormatSpec(NONE), None)
        result = _by_position(out)
        ctx.save_for_backward(q, k, *(scores_of or ()), quantized, result, *saved)
        ctx.call, ctx.separate = call, scores_of is not None
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient("pv")
        if not ctx.computes:
            return *(torch.zeros_like(x) for x in ctx.saved_tensors), None, None, None, None, None
        q, k, *rest = ctx.saved_tensors
        q_scores, k_scores = (rest.pop(0), rest.pop(0)) if ctx.separate else (q, k)
        values, result, *saved = rest
        if any(ctx.needs_input_grad[:2]):  # through dP
            operands.count("pv", "dgrad", ctx.text, ctx.layer)
        if ctx.needs_input_grad[2]:
            operands.count("pv", "wgrad", ctx.text, ctx.layer)
        q, k, out, grad = (_by_head(x) for x in (q, k, result, grad))
        q_scores, k_scores = (_by_head(q_scores), _by_head(k_scores)) if ctx.separate else (q, k)
        given = Operands(q_scores, k_scores, q, k, values, out, tuple(saved))
        gradients = _implementation(q).backward(grad, given, ctx.call)
        return *(_by_position(x) for x in gradients), None, None, None, None, None


def quantizes_gradients(specs: ProductSpecs) -> bool:
    """Whether a gradient product has a format for the incoming gradient."""
    return not (specs.dgrad[0].spec.is_none and specs.wgrad[0].spec.is_none)


def why_not(q: Tensor, k: Tensor, v: Tensor, *, pv: str, causal: bool = False) -> str | None:
    """Why attention_pv refuses this call, or None. Costs nothing: reads shapes and dtypes."""
    specs = operands.resolve(pv, "pv")
    if quantizes_gradients(specs):
        return f"pv={pv} quantizes the gradients of the context, which only the unfused flow does"
    if not specs.wgrad[1].spec.is_none:
        return f"pv={pv} quantizes probabilities along queries for wgrad, which only the unfused flow does"
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        return f"operands of {q.dtype}, {k.dtype}, {v.dtype}"
    if causal and q.shape[0] != k.shape[0]:
        return f"a causal mask for {q.shape[0]} queries and {k.shape[0]} keys"
    if q.shape[2] % max(k.shape[2], 1):
        return f"{q.shape[2]} heads for {k.shape[2]} groups"
    if family_of(q) == TRITON:
        import triton

        from quantctl.kernels.triton.flash import widest_heads

        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
            return f"a PV selector or bwd=high_precision with Triton {triton.__version__}, whose kernels take no tuples"
        widest = widest_heads(q.device)
        if q.shape[3] > widest[0] or v.shape[3] > widest[1]:
            return f"heads of {q.shape[3]} and {v.shape[3]} columns, more than {widest[0]} and {widest[1]}"
    return None


@torch.compiler.disable  # inductor's launches take no tuples, and would fuse multiplications into additions
def attention_pv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    pv: str,
    scores_of: tuple[Tensor, Tensor] | None = None,
    layer: Named | None = None,
) -> Tensor:
    """Context [sq, batch, heads, d_v], contiguous.

    q [sq, batch, heads, d], k [sk, batch, groups, d], v [sk, batch, groups, d_v] in bf16, fp16 or fp32, with any
    strides; head h reads group h // (heads // groups). causal: query i sees keys 0 .. i, and sq == sk. pv: the
    spec that holds, `none` for attention without quantization. scores_of: what the scores are computed of instead of q
    and k, in the forward and again in the backward, with no gradient of their own: dQ and dK are those of q and k.

    For the backward q, k, v (its quantized values with bwd=dequantized), the result, and two fp32 numbers a row are
    kept. Stochastic rounding draws for P, then for V; V draws once a group, so with several heads a group the noise is
    not that of the unfused flow. Raises QuantctlError for what `why_not` names.
    """
    reason = why_not(q, k, v, pv=pv, causal=causal)
    if reason is not None:
        raise QuantctlError(f"attention=fused cannot compute {reason}", "set --attention unfused (or auto)")
    result: Tensor = _FusedAttention.apply(q, k, v, scores_of, scale, causal, pv, layer)
    return result.to(product_dtype(q))  # under autocast computed in the operands' dtype, and rounded here


def flops(batch: int, heads: int, sq: int, sk: int, d: int, d_v: int, *, causal: bool, backward: bool) -> int:
    """Of the products that the kernels compute, two a multiply-add; each direction computes S twice."""
    pairs = batch * heads * (sq * (sq + 1) // 2 if causal else sq * sk)
    # forward: S for the sums, S, P V. Backward: S, dP, dS K and P K; S, dP, dV, dK
    return 2 * pairs * ((5 * d + 3 * d_v) if backward else (2 * d + d_v))
