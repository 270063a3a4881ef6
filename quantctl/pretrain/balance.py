"""The load-balancing loss of the routers: its weight in the backward pass, and its value in the log.

The routers attach it to their probabilities with MoEAuxLossAutoScaler and record it a layer. Up to 0.17 the records lie
in a dictionary of moe_utils (0.12: parallel_state), from 0.18 on in a tracker object; either way a record has `values`
[layers] and the group over which its parts add up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def scale_gradients(micro_batches: int, device: torch.device) -> None:
    """The loss is a mean over micro batches, as the language model's is."""
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(1.0 / micro_batches, device=device))


def _records() -> dict[str, tuple[torch.Tensor, Any]]:
    """Name to (values [layers], group that sums them or None)."""
    try:
        from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker
    except ImportError:
        pass
    else:
        return {name: (entry.values, entry.reduce_group) for name, entry in get_moe_metrics_tracker().metrics.items()}
    from megatron.core import parallel_state
    from megatron.core.transformer.moe import moe_utils

    place = moe_utils if hasattr(moe_utils, "get_moe_layer_wise_logging_tracker") else parallel_state
    tracker = place.get_moe_layer_wise_logging_tracker()
    return {name: (entry["values"], entry.get("reduce_group")) for name, entry in tracker.items()}


def take_losses(layers: int, micro_batches: int) -> dict[str, float]:
    """Megatron-LM's log fields (`load_balancing_loss`, `seq_load_balancing_loss`): means over `layers` layers, micro
    batches and data-parallel ranks of what was recorded since the last call. A collective call."""
    from megatron.core import parallel_state

    losses = {}
    data_parallel = parallel_state.get_data_parallel_group()
    for name, (values, group) in sorted(_records().items()):
        total = values.sum()
        if group is not None:
            dist.all_reduce(total, group=group)
        dist.all_reduce(total, group=data_parallel)
        losses[name] = float(total) / (layers * micro_batches * data_parallel.size())
        values.zero_()
    return losses
