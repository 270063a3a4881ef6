"""What a built model consists of, read from its modules: nothing here trusts the flags that it was built from."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from quantctl.spec.names import fold

# where a linear layer stands, by its name in the model; the first that fits
_KINDS = (
    (r"^output_layer", "output layer"),
    (r"\.local_experts\.\d+\.(\w+)$", "expert {}"),
    (r"\.shared_experts\.(\w+)$", "shared expert {}"),
    (r"\.self_attention\.(\w+)$", "attention {}"),
    (r"\.mlp\.(\w+)$", "dense MLP {}"),
)


def _attention(module: Any) -> str:
    config = module.config
    if hasattr(module, "linear_kv_down_proj"):
        queries = f"from {config.q_lora_rank}" if config.q_lora_rank else "uncompressed"
        width = config.qk_head_dim + config.qk_pos_emb_head_dim
        return (
            f"multi-latent: {config.num_attention_heads} heads, queries {queries}, keys and values from "
            f"{config.kv_lora_rank}, qk {width}, v {config.v_head_dim}"
        )
    kind = "grouped-query" if config.num_query_groups < config.num_attention_heads else "multi-head"
    return f"{kind}: {config.num_attention_heads} heads, {config.num_query_groups} groups, qk {config.kv_channels}"


def _mlp(module: Any) -> str:
    if not hasattr(module, "router"):
        return f"dense: width {module.linear_fc2.weight.shape[1]}"
    shared = ""
    if module.shared_experts is not None:
        shared = f", shared width {module.shared_experts.linear_fc2.weight.shape[1]}"
    first = module.experts.local_experts[0]
    local = f"{module.num_local_experts} local a rank, width {first.linear_fc2.weight.shape[1]}"
    return f"experts: {module.config.num_moe_experts}, top {module.config.moe_router_topk}, {local}{shared}"


def _linear(model: Any) -> dict[str, dict[str, Any]]:
    """By kind: how many layers there are, and the shapes [out, in] of their weights."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

    counts: Counter[str] = Counter()
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (ColumnParallelLinear, RowParallelLinear)):
            continue
        pattern, kind = next(row for row in (*_KINDS, ("", name)) if re.search(row[0], name))
        match = re.search(pattern, name)
        kind = kind.format(*match.groups()) if match else kind
        counts[kind] += 1
        # a tied output layer has no weight of its own
        weight = module.weight if module.weight is not None else model.shared_embedding_or_output_weight()
        shapes.setdefault(kind, set()).add(tuple(weight.shape))
    return {kind: {"layers": n, "shapes": sorted(shapes[kind])} for kind, n in counts.items()}


def describe(model: Any) -> dict[str, Any]:
    """Layers with attention and MLP, routers, linear layers by kind, and the names of what computes products."""
    from quantctl.kernels.measure.coverage import places_in

    layers = model.decoder.layers
    return {
        "layers": len(layers),
        "attention": [_attention(layer.self_attention) for layer in layers],
        "mlp": [_mlp(layer.mlp) for layer in layers],
        "routers": sum(hasattr(layer.mlp, "router") for layer in layers),
        "linear": _linear(model),
        "products": fold(name for name, _, _ in places_in(model)),
    }
