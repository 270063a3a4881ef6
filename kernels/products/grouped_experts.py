"""All local experts of Megatron's SequentialMLP in one call, as the patched layer asks for it.

Nothing of the experts' MLP is rewritten: its own forward runs once, on the tokens of all experts, with grouped products
in the place of its two linear layers. All that it computes between them is a matter of single tokens, the routing
weights included, so whatever activation a release has is what the loop over experts would compute.
Each expert keeps its own weights as parameters; gradients, hooks on parameters and checkpoints are as in the loop.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.measure import coverage
from quantctl.kernels.products import operands, stock_code
from quantctl.kernels.products.grouped import grouped_linear, one_spec
from quantctl.kernels.products.groups import Groups
from quantctl.patches.grouped_experts import PATCHES


class _Together(torch.nn.Module):
    """In the place of one expert's linear layer: those of all experts, each on its tokens."""

    def __init__(self, layers: Sequence[Any], groups: Groups, counts: Sequence[int], spec: str) -> None:
        super().__init__()
        self.layers = tuple(layers)  # not registered: they are the experts' own
        self.groups, self.counts, self.spec = groups, counts, spec

    def bias(self) -> Tensor | None:
        """[tokens, out]: each token has its expert's."""
        if self.layers[0].bias is None:
            return None
        each = zip(self.layers, self.counts, strict=True)
        return torch.cat([layer.bias.expand(count, -1) for layer, count in each])

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        weights = [layer.weight for layer in self.layers]
        output = grouped_linear(hidden, weights, self.groups, self.spec, layers=self.layers)
        coverage.together(self.layers)
        return output, self.bias()


class _TogetherWithoutBias(_Together):
    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().forward(hidden)[0], None


def forward(
    module: Any, hidden: Tensor, counts: list[int], probs: Tensor | None, spec: str
) -> tuple[Tensor, Tensor | None] | None:
    """SequentialMLP.forward from the loop over experts on: its output and bias, or None where the loop has to do it.

    hidden [tokens, h], sorted by expert; counts: tokens of each expert; probs [tokens], the routing weights, where the
    release applies them inside the experts.
    """
    experts = list(module.local_experts)
    if not _supported(module, experts, hidden, probs):
        return None
    fc1, fc2 = [expert.linear_fc1 for expert in experts], [expert.linear_fc2 for expert in experts]
    texts = one_spec(fc1, spec), one_spec(fc2, spec)
    if any(text is None or operands.resolve(text, "linear").is_none for text in texts):
        return None  # experts that differ, and stock products, which are Megatron's own
    _wait_for_parameters(experts)
    groups = Groups.of(counts, hidden.shape[0], hidden.device)
    together = copy.copy(experts[0])
    together._modules = dict(together._modules)
    together.linear_fc1 = _Together(fc1, groups, counts, spec)
    # where probs come in, the experts' MLP adds its one bias to the output, so all of them are added here
    last = _Together if probs is None else _TogetherWithoutBias
    together.linear_fc2 = last(fc2, groups, counts, spec)
    if probs is None:
        return together(hidden)
    output, _ = together(hidden, probs)
    bias = together.linear_fc2.bias()
    if bias is not None:
        output += bias * probs.unsqueeze(-1)
    return output, None


def _supported(module: Any, experts: Sequence[Any], hidden: Tensor, probs: Tensor | None) -> bool:
    """Whether the loop would compute nothing but what is computed here.

    It does more with Megatron's fused weight gradients (they go into main_grad), padding for its own fp8 and fp4,
    experts split over ranks, offloading, autocast, layers of other classes, hooks on an expert or its layers that look
    at what passes, and code that is no release's own.
    """
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLP

    config = module.config
    asked = ("fp8", "fp4", "gradient_accumulation_fusion", "cpu_offloading", "defer_embedding_wgrad_compute")
    if any(getattr(config, name, None) for name in asked) or torch.is_autocast_enabled(hidden.device.type):
        return False
    for expert in experts:
        layers = (expert.linear_fc1, expert.linear_fc2)
        if type(expert) is not MLP or tuple(map(type, layers)) != (ColumnParallelLinear, RowParallelLinear):
            return False
        if not all(_is_plain(layer, config, hidden.dtype) for layer in layers) or _has_hooks((expert, *layers)):
            return False
    if reason := stock_code.why_not(PATCHES[0], module):
        stock_code.say_once(f"experts are computed one by one: {reason}")
        return False
    # up to 0.14 the experts refuse biases where they get routing weights, and the loop says so
    return probs is None or experts[0].linear_fc2.bias is None or not hasattr(module, "add_bias")


def _is_plain(layer: Any, config: Any, dtype: torch.dtype) -> bool:
    """A whole weight of the tokens' dtype, and no communication."""
    whole = layer.weight.shape == (layer.output_size, layer.input_size)
    alone = layer.explicit_expert_comm or config.tensor_model_parallel_size == 1
    return whole and alone and layer.weight.dtype == dtype


def _gathers(hook: Any) -> bool:
    """Whether it is the hook by which Megatron's DDP waits for a module's own parameters (--overlap-param-gather)."""
    return getattr(hook, "__module__", None) == "megatron.core.distributed.distributed_data_parallel"


def _has_hooks(modules: Sequence[torch.nn.Module]) -> bool:
    kinds = ("_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    after = (hook for module in modules for kind in kinds for hook in getattr(module, kind).values())
    before = (hook for module in modules for hook in module._forward_pre_hooks.values())
    return not all(map(coverage.is_ours, after)) or not all(_gathers(hook) or coverage.is_ours(hook) for hook in before)


def _wait_for_parameters(experts: Sequence[Any]) -> None:
    """In the loop's order, which is that of the gathers on every rank."""
    for expert in experts:
        for module in (expert, expert.linear_fc1, expert.linear_fc2):
            for hook in filter(_gathers, tuple(module._forward_pre_hooks.values())):
                hook(module, ())
