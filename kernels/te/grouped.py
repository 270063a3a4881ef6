"""The products of te.pytorch.GroupedLinear, all local experts in one module.

Grouped products where they compute all that the module does; else Megatron's function, expert by expert, as its local
layers do. Both are equal in every bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.products import grouped
from quantctl.kernels.te.linear import asked, product


def grouped_linear(
    module: Any, x: Tensor, m_splits: Sequence[int] | Tensor, quant_type: str, site: str
) -> Tensor | tuple[Tensor, list[Tensor | None]] | None:
    """What te.pytorch.GroupedLinear's forward returns: the output, with `return_bias` and the biases; None where it
    is to run.

    x [tokens, in], sorted by expert; m_splits: tokens of each expert. quant_type, site: as in linear.linear.
    """
    if not asked(module, quant_type, site):
        return None
    numbers = range(module.num_gemms)
    weights = [getattr(module, f"weight{number}") for number in numbers]
    biases = [getattr(module, f"bias{number}") if module.use_bias else None for number in numbers]
    inside = [None if module.return_bias else bias for bias in biases]
    counts = [int(count) for count in m_splits]
    tokens = x.reshape(-1, x.shape[-1])
    if _fits_together(module, tokens, weights):
        output = grouped.grouped_linear(tokens, weights, counts, quant_type, site, layers=(module,))
        if inside[0] is not None:
            each = zip(inside, counts, strict=True)
            output = output + torch.cat([bias.expand(count, -1) for bias, count in each if bias is not None])
    else:
        parts = zip(torch.split(tokens, counts), weights, inside, strict=True)
        outputs = [
            product(module, part, weight, bias, allreduce_dgrad=False, sequence_parallel=False)
            for part, weight, bias in parts
        ]
        output = torch.cat(outputs)
    output = output.view(*x.shape[:-1], output.shape[-1])
    return (output, biases) if module.return_bias else output


def _fits_together(module: Any, tokens: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the grouped products are all there is: fused weight gradients go into main_grad, autocast casts."""
    if module.fuse_wgrad_accumulation or torch.is_autocast_enabled(tokens.device.type):
        return False
    return all(weight.dtype == tokens.dtype for weight in weights)
