"""A linear layer's operands as the matrices that its products have: tokens flattened, and filled up where a Hadamard
transform along them wants it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.hadamard import size_of
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.philox import Draw
from quantctl.kernels.products import operands
from quantctl.kernels.products.modules import Named
from quantctl.spec import FormatSpec


def tokens_of(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def with_rows(x: Tensor, count: int) -> Tensor:
    """x [tokens, n] with so many rows of zeros behind it."""
    return torch.nn.functional.pad(x, (0, 0, 0, count)) if count else x


def quantized_rows(x: Tensor, spec: FormatSpec, draw: Draw | None) -> Tensor:
    """x [..., n] along its last axis, as the product has it: squares of a block lie in its flattened tokens."""
    in_squares = not spec.is_none and block_of(spec).across > 1
    return quantize_dequantize(tokens_of(x) if in_squares else x, spec, -1, rng=draw).view_as(x)


def rows_to_fill(ctx: Any, total_input: Tensor, weight: Tensor) -> int:
    """Rows of zeros behind wgrad's tokens, which are added for an expert's: as many as a router gives it.

    Raises QuantctlError for a Hadamard transform that does not divide the axis of its product.
    """
    plan = ctx.quant_plan
    if not plan.is_transformed:
        return 0
    layer = getattr(ctx, "quant_layer", None)
    name = layer.name if isinstance(layer, Named) else ctx.quant_site
    tokens, filled = total_input.shape[:-1].numel(), 0
    if isinstance(layer, Named) and "experts" in name.split("."):
        filled = -tokens % size_of(plan.specs.wgrad[0].spec)
    sizes = (weight.shape[1], weight.shape[0], tokens + filled)
    operands.check_sizes(plan.specs, sizes, f"{name} ({ctx.quant_site}={ctx.quant_spec})")
    return filled
