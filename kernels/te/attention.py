"""Transformer Engine's core attention under the selectors `qk`, `pv` and `attention`.

Where a format is asked for, or `fused`, Megatron's local DotProductAttention computes in the place of the
te.pytorch.DotProductAttention, step by step or fused as its own selectors say. It has no parameters, and is no part of
the module tree, so checkpoints are Transformer Engine's. Softmax is in fp32, as it is there. A module of which no
format is asked runs Transformer Engine's own kernel, which is all that `unfused` and `auto` mean there.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.measure import coverage
from quantctl.kernels.products import operands
from quantctl.kernels.products.modules import spec_now

_MASKS = ("causal", "padding", "no_mask", "arbitrary")
"""Mask types that the local attention knows."""


class _Local(NamedTuple):
    """What computes in a module's place."""

    attention: Any
    selectors: Any
    """The module of the tree in which its selectors stand."""


def prepare_attention(module: Any, selectors: Any, **arguments: Any) -> None:
    """Give a TEDotProductAttention that has just been built what computes in its place.

    selectors: megatron.core.transformer.dot_product_attention, patched. arguments: those of the constructor which both
    classes take. Raises QuantctlError for what the local attention does not compute.
    """
    config = module.config
    _refuse(config, selectors)
    kind = selectors.DotProductAttention
    plain = copy.copy(config)
    # what Transformer Engine's softmax does, in any release's words: no other kernel for it, and none but fp32
    plain.masked_softmax_fusion, plain.attention_softmax_in_fp32 = False, True
    given = {name: value for name, value in arguments.items() if value is not None}
    local = kind(config=plain, **given, **_groups(kind, module))
    coverage.stands_in(local)
    vars(module)["quantctl_local"] = _Local(local, selectors)


def _groups(kind: Any, module: Any) -> dict[str, Any]:
    """The module's process groups, where the release's local attention takes any."""
    if "pg_collection" not in inspect.signature(kind.__init__).parameters or getattr(module, "_tp_group", None) is None:
        return {}
    from megatron.core.process_groups_config import ProcessGroupCollection

    return {"pg_collection": ProcessGroupCollection(tp=module._tp_group)}


def _refuse(config: Any, selectors: Any) -> None:
    reasons = (
        (config.context_parallel_size > 1, "context parallelism", "train with --context-parallel-size 1"),
        (getattr(config, "window_size", None) is not None, "a sliding window", "drop --window-size"),
        (
            getattr(config, "softmax_type", "vanilla") != "vanilla",
            "attention sinks (--softmax-type)",
            "train with --softmax-type vanilla",
        ),
        (
            getattr(config, "qk_clip", False) or getattr(config, "log_max_attention_logit", False),
            "the largest attention logit (--qk-clip, --log-max-attention-logit)",
            "drop these",
        ),
        (
            getattr(config, "fp8_dot_product_attention", False) or getattr(config, "fp8_multi_head_attention", False),
            "Transformer Engine's own FP8 attention",
            "drop --fp8-dot-product-attention and --fp8-multi-head-attention",
        ),
    )
    for applies, what, way_out in reasons:
        if applies:
            raise _refusal(selectors, what, way_out)


def _refusal(selectors: Any, what: str, way_out: str) -> QuantctlError:
    values = (
        f"qk={selectors.custom_quant_type_qk}",
        f"pv={selectors.custom_quant_type_pv}",
        f"attention={selectors.custom_attention_impl}",
    )
    return QuantctlError(
        f"{', '.join(values)}: the attention that selectors rule does not compute {what}",
        f"{way_out}; or set qk and pv to none and attention to unfused, and Transformer Engine's attention runs",
    )


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    attn_mask_type: Any,
    attention_bias: Tensor | None,
    packed_seq_params: object,
) -> Tensor | None:
    """The context [s, b, heads * d_v] of a TEDotProductAttention, or None where its own forward is to run.

    Arguments as its forward's: query [s, b, heads, d_qk], key [s, b, groups, d_qk], value [s, b, groups, d_v]. Raises
    QuantctlError for calls that the local attention does not take.
    """
    local, selectors = vars(module)["quantctl_local"]
    layer = getattr(module, "quant_layer", None)
    if not _asked(selectors, layer) and selectors.custom_attention_impl != "fused":
        return None
    reasons = (
        (packed_seq_params is not None, "packed sequences", "train without them"),
        (attention_bias is not None, "an attention bias", "train without it"),
        (_other_mask(local, attn_mask_type, query), f"the mask type {attn_mask_type.name}", "train with causal masks"),
    )
    for applies, what, way_out in reasons:
        if applies:
            raise _refusal(selectors, what, way_out)
    local.quant_layer = layer
    if local.training is not module.training:
        local.train(module.training)
    context: Tensor = local(query, key, value, attention_mask, attn_mask_type)
    return context


def _other_mask(local: Any, mask_type: Any, query: Tensor) -> bool:
    """Whether a call's mask is none that the local attention would apply; to a single query there is nothing causal."""
    if mask_type.name not in _MASKS:
        return True
    return bool(mask_type is not local.attn_mask_type and query.size(0) > 1)


def _asked(selectors: Any, layer: Any) -> bool:
    """Whether a format holds now for a product of this module. Stock ones are counted where it is not so."""
    texts = {site: spec_now(getattr(selectors, f"custom_quant_type_{site}"), site, layer) for site in ("qk", "pv")}
    if not all(operands.resolve(text, site).is_none for site, text in texts.items()):
        return True
    if selectors.custom_attention_impl != "fused":
        for site, text in texts.items():
            operands.count(site, "fprop", text, layer)
    return False
