"""The choice behind selector `attention`, as the patched DotProductAttention of Megatron makes it in each call.

`auto` takes the fused kernels where they compute what the unfused flow would, and says once why where they do not;
`fused` refuses such calls. What ran is counted under the site `attention`: fused, and by whom; unfused, and why.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.measure import hits
from quantctl.kernels.products import causal_mask, fused_attention, stock_code
from quantctl.kernels.products.modules import spec_now
from quantctl.patches import fused_attention as patch
from quantctl.spec import ATTENTION_IMPLEMENTATIONS, choice

SITE = "attention"


def why_not(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    attention_bias: Tensor | None,
    packed_seq_params: object,
    qk: str,
    pv: str,
) -> str | None:
    """Why a call of a DotProductAttention cannot be fused, in words; None if it can. Arguments as fused_context's, but
    qk and pv: the specs that hold for this module now.
    """
    softmax = module.scale_mask_softmax
    dropout = module.attention_dropout
    reasons = (
        (packed_seq_params is not None, "packed sequences"),
        (attention_bias is not None, "an attention bias"),
        (module.config.context_parallel_size > 1, "context parallelism"),
        (getattr(module, "softmax_offset", None) is not None, "attention sinks (softmax_offset)"),
        (getattr(softmax, "window_size", None) is not None, "a sliding window"),
        (dropout.training and dropout.p > 0, f"attention dropout of {dropout.p}"),
        # the module's own type is the one that the unfused flow obeys
        (softmax.attn_mask_type.name != "causal", f"the mask type {softmax.attn_mask_type.name}"),
        (query.size(0) != key.size(0), "fewer queries than keys (inference with a cache)"),
    )
    reason = next((reason for applies, reason in reasons if applies), None)
    reason = reason or stock_code.why_not(patch.PATCH, module) or _strange_parts(softmax, dropout)
    return reason or fused_attention.why_not(query, key, value, qk=qk, pv=pv) or _wrong_mask(mask, query.size(0))


def _strange_parts(softmax: Any, dropout: Any) -> str | None:
    """What a fork put in the place of the modules and functions that the fused kernel stands for."""
    parts = (
        (type(softmax), "megatron.core.fusions.fused_softmax", "FusedScaleMaskSoftmax"),
        (softmax.mask_func, "megatron.core.transformer.utils", "attention_mask_func"),
        (type(dropout), "torch.nn.modules.dropout", "Dropout"),
    )
    for part, module, name in parts:
        if (part.__module__, part.__qualname__) != (module, name):
            return f"{part.__module__}.{part.__qualname__} in the place of {name}"
    return None


def _wrong_mask(mask: Tensor | None, length: int) -> str | None:
    if mask is None:
        return None
    if str(mask.dtype) != "torch.bool" or mask.dim() < 2 or mask.shape[-2:] != (length, length):
        return f"a mask of {str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
    return None if causal_mask.is_causal(mask) else "a mask that is not causal (--reset-attention-mask?)"


def fused_context(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    attention_bias: Tensor | None,
    packed_seq_params: object,
    impl: str,
    qk: str,
    pv: str,
) -> Tensor | None:
    """The context [s, b, heads * d_v] of a DotProductAttention's forward, or None where the unfused flow is to run.

    module: the DotProductAttention, of which scale, mask type, dropout and quant_layer are read. query [s, b, heads,
    d_qk], key [s, b, groups, d_qk], value [s, b, groups, d_v] and the rest: forward's arguments. impl, qk, pv: the
    selectors' values.

    Raises QuantctlError for an unknown value, and with `fused` for a call that cannot be fused.
    """
    choice(SITE, impl, ATTENTION_IMPLEMENTATIONS)
    layer = getattr(module, "quant_layer", None)
    qk, pv = spec_now(qk, "qk", layer), spec_now(pv, "pv", layer)
    reason = why_not(
        module,
        query,
        key,
        value,
        mask,
        attention_bias=attention_bias,
        packed_seq_params=packed_seq_params,
        qk=qk,
        pv=pv,
    )
    if reason is not None:
        if impl == "fused":
            raise QuantctlError(
                f"attention=fused: no fused kernel takes this call: {reason}",
                "quantctl set --attention unfused, or auto, which is unfused where it must be",
            )
        stock_code.say_once(f"attention=auto is unfused here: {reason}")
        hits.tally(SITE, "unfused").add(reason)
        return None
    by = "torch sdpa" if fused_attention.by_library(qk=qk, pv=pv) else "quantctl"
    stock_code.say_once(f"attention={impl} is fused here: {by}")
    hits.tally(SITE, "fused").add(by)
    # with query-key layer scaling the softmax multiplies by the layer number what softmax_scale was divided by
    scale = module.softmax_scale * (module.scale_mask_softmax.scale or 1.0)
    context = fused_attention.fused_attention(query, key, value, scale=scale, causal=True, qk=qk, pv=pv, layer=layer)
    return context.reshape(*context.shape[:2], -1)
