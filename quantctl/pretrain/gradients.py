"""Gradients over ranks: which ranks hold parts of one, and the sums over them.

    tensor parallel ranks     hold parts for weights that each of them has whole and applies to some tokens (norms and
                              routers with sequence parallelism) or to some heads (norms of queries and keys)
    data-parallel ranks       hold the gradients of different samples: their mean is the gradient of the batch
    expert-data-parallel      the ranks among those that have the same experts. An expert sees the tokens of all ranks
                              that it is shared by, so its gradient is already summed over them: the sum over this
                              group, divided by the number of data-parallel ranks, is again the mean

Source: megatron/core/distributed, finalize_model_grads.py and distributed_data_parallel.py, whose buffers are
allocated on CUDA and nowhere else, so that they cannot be called here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist


def is_expert(parameter: torch.Tensor) -> bool:
    """Whether the parameter belongs to experts of which other data-parallel ranks have others."""
    return not getattr(parameter, "allreduce", True)


_BUCKET = 1 << 27
"""Elements that one collective adds up: a few calls for a large model, and no second copy of all its gradients."""


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in gradients:
        if bucket and sum(map(torch.numel, bucket)) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _sum(gradients: Iterable[torch.Tensor], group: dist.ProcessGroup) -> None:
    """Add up over the group."""
    if group.size() == 1:
        return
    for tensors in _buckets(gradients):
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=group)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


class Reduction:
    """Turns each rank's gradients into those of the whole batch."""

    def __init__(
        self, named: list[tuple[str, torch.nn.Parameter]], gradients: list[torch.Tensor], args: argparse.Namespace
    ) -> None:
        from megatron.core import parallel_state

        self.tensor_parallel = parallel_state.get_tensor_model_parallel_group()
        self.data_parallel = parallel_state.get_data_parallel_group()
        first = self.tensor_parallel.rank() == 0
        first_of_expert = first
        self.expert_data_parallel = self.experts_of_a_model = None
        if any(is_expert(parameter) for _, parameter in named):  # up to 0.9 there are no such groups
            self.expert_data_parallel = parallel_state.get_expert_data_parallel_group()
            self.experts_of_a_model = parallel_state.get_expert_tensor_model_pipeline_parallel_group()
            first_of_expert = parallel_state.get_expert_tensor_parallel_rank() == 0
        self.gradients = gradients
        self.partial: list[torch.Tensor] = []
        self.dense: list[torch.Tensor] = []
        self.expert: list[torch.Tensor] = []
        self.counted: list[torch.Tensor] = []
        self.counted_experts: list[torch.Tensor] = []
        for (name, parameter), gradient in zip(named, gradients, strict=True):
            by_tokens = args.sequence_parallel and getattr(parameter, "sequence_parallel", False)
            # multi-latent attention has its query norm in front of all heads, so every rank has the whole gradient
            by_heads = args.qk_layernorm and not args.multi_latent_attention
            if by_tokens or (by_heads and ("q_layernorm" in name or "k_layernorm" in name)):
                self.partial.append(gradient)
            (self.expert if is_expert(parameter) else self.dense).append(gradient)
            # a weight that every tensor parallel rank holds whole counts once in the norm
            split = getattr(parameter, "tensor_model_parallel", False)
            if is_expert(parameter):
                self.counted_experts += [gradient] if first_of_expert or split else []
            else:
                self.counted += [gradient] if first or split else []

    def reduce(self) -> None:
        """In place. A collective call."""
        _sum(self.partial, self.tensor_parallel)
        if self.data_parallel.size() > 1:
            _sum(self.dense, self.data_parallel)
            if self.expert_data_parallel is not None:
                _sum(self.expert, self.expert_data_parallel)
            torch._foreach_div_(self.gradients, self.data_parallel.size())

    def norm(self) -> float:
        """L2 norm of the whole model's gradient, after `reduce`. A collective call."""
        total = _squares(self.counted, self.gradients)
        dist.all_reduce(total, group=self.tensor_parallel)
        if (
            self.experts_of_a_model is not None and self.experts_of_a_model.size() > 1
        ):  # else every weight is among the others
            of_experts = _squares(self.counted_experts, self.gradients)
            dist.all_reduce(of_experts, group=self.experts_of_a_model)
            total += of_experts
        return float(total.sqrt())


def _squares(gradients: list[torch.Tensor], like: list[torch.Tensor]) -> torch.Tensor:
    if not gradients:
        return torch.zeros((), device=like[0].device)
    return torch.stack(torch._foreach_norm(gradients)).square().sum()
