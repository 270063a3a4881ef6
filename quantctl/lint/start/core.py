"""What megatron.core's own configuration and parallel state say of a command, where a tree holds no trainer.

The trainer between them is not at hand, so of what it hands on only that is known which it hands on as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantctl.lint.start.calls import Program
from quantctl.lint.start.source import Class, Function
from quantctl.lint.start.values import UNKNOWN

_SIZES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)
_HANDED_ON = {
    **{name: name for name in _SIZES},
    **{name: name for name in ("num_layers", "hidden_size", "num_attention_heads", "fp16", "bf16")},
    **{name: name for name in ("moe_router_topk", "moe_router_num_groups", "moe_router_group_topk")},
    **{name: name for name in ("recompute_granularity", "recompute_method", "recompute_num_layers")},
    "num_moe_experts": "num_experts",
}
"""Fields of the configuration, and the attributes of `args` that they are."""


def follow_parallel_state(program: Program, function: Function, args: Mapping[str, Any]) -> None:
    """The parallel state's set-up. Raises Stop where a check fails whatever is not known."""
    known = {name: args.get(name, UNKNOWN) for name in function.names if name in _SIZES}
    unclear = {name: UNKNOWN for name in function.names if name not in known and (name in args or "virtual" in name)}
    program.run(function, [], known | unclear)


def follow_configuration(program: Program, config: Class, args: Mapping[str, Any]) -> None:
    """The configuration's __post_init__. Raises Stop where a check fails whatever is not known."""
    fields = {field: UNKNOWN for one in program.lineage(config) for field in one.fields}
    known = {field: args[name] for field, name in _HANDED_ON.items() if name in args and field in fields}
    program.build(config, [], {"**": program.new(fields | known)})
