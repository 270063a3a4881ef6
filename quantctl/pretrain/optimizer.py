"""AdamW on fp32 master weights with fp32 gradient accumulation, as Megatron-LM trains a bf16 model.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101; torch.optim's, which
Megatron-LM uses where neither Apex nor Transformer Engine is installed. Clipping: Pascanu et al., arXiv 1211.5063,
with Megatron-LM's coefficient max_norm / (norm + 1e-6). megatron.core.optimizer sums norms and inf checks on CUDA only.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from quantctl.pretrain.gradients import Reduction


def _decays(name: str, parameter: torch.Tensor) -> bool:
    """Megatron-LM's rule: no weight decay on biases and one-dimensional weights."""
    return not name.endswith(".bias") and parameter.dim() > 1


class MasterAdamW:
    """One step: gradients accumulated in fp32 -> sums over ranks -> global norm -> clip -> AdamW on fp32 weights ->
    model's dtype.

    `param_groups` is what Megatron's OptimizerParamScheduler sets `lr` and `weight_decay` (times `wd_mult`) in.
    """

    def __init__(self, model: torch.nn.Module, args: argparse.Namespace) -> None:
        self.clip_grad = args.clip_grad
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.gradients = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]
        self.masters = [
            p.detach() if p.dtype == torch.float32 else p.detach().to(torch.float32, copy=True) for p in self.parameters
        ]
        for master, gradient in zip(self.masters, self.gradients, strict=True):
            master.grad = gradient
        self.reduction = Reduction(named, self.gradients, args)
        groups: list[dict[str, Any]] = []
        for wd_mult in (1.0, 0.0):
            members = [m for (n, p), m in zip(named, self.masters, strict=True) if _decays(n, p) == bool(wd_mult)]
            if members:
                groups.append({"params": members, "wd_mult": wd_mult})
        self.adam = torch.optim.AdamW(
            groups, lr=args.lr, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_eps, fused=True
        )
        self._accumulate_in_fp32()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.adam.param_groups

    def _accumulate_in_fp32(self) -> None:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):

            def add(p: torch.Tensor, gradient: torch.Tensor = gradient) -> None:
                assert p.grad is not None
                gradient.add_(p.grad)
                p.grad = None

            parameter.register_post_accumulate_grad_hook(add)

    def zero_grad(self) -> None:
        torch._foreach_zero_(self.gradients)

    def step(self) -> float:
        """Update the model's weights from the accumulated gradients; returns their norm before clipping."""
        self.reduction.reduce()
        norm = self.reduction.norm()
        coefficient = self.clip_grad / (norm + 1e-6) if self.clip_grad > 0 else 1.0
        if coefficient < 1.0:
            torch._foreach_mul_(self.gradients, coefficient)
        self.adam.step()
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if parameter.dtype != torch.float32:
                    parameter.copy_(master)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "masters": dict(zip(self.names, self.masters, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        with torch.no_grad():
            for name, master in zip(self.names, self.masters, strict=True):
                master.copy_(state["masters"][name])
