"""How a product's autograd function runs: its backward under the autocast of its forward, and once only.

Under torch.autocast an operand is quantized as it is given, and the product of the quantized operands is computed in
autocast's dtype, as the stock product of the operands is. torch calls a backward outside of autocast, with the dtypes
of both sides mixed; torch.amp.custom_bwd restores it, but for one kind of device that is named beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError


def product_dtype(x: Tensor) -> torch.dtype:
    """That of a product of operands like x: autocast's where it is on, else theirs."""
    kind = x.device.type
    if kind != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def refuse_second_gradient(site: str) -> None:
    """To be called in a backward. Raises QuantctlError if what it computes is to be differentiated a second time.

    A quantized operand counts as a constant there, so that the result would be wrong in silence.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    if torch._C._current_graph_task_id() != -1:  # within a backward, grad mode is what create_graph was
        raise QuantctlError(
            f"{site}: the gradient of a quantized product cannot be differentiated a second time",
            f"drop create_graph=True, or set {site} to none",
        )


def keeps_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    """For the forward of an autograd function: what its backward, a `once`, is to find again."""

    @wraps(forward)
    def run(ctx: Any, x: Tensor, *rest: Any) -> Any:
        kind = x.device.type
        on = kind != "meta" and torch.is_autocast_enabled(kind)
        ctx.autocast = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind)} if on else None
        return forward(ctx, x, *rest)

    return run


def without_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    """For the forward of an autograd function that computes in the operands' dtype; its backward is outside anyway."""

    @wraps(forward)
    def run(ctx: Any, x: Tensor, *rest: Any) -> Any:
        kind = x.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return forward(ctx, x, *rest)
        with torch.autocast(kind, enabled=False):
            return forward(ctx, x, *rest)

    return run


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the backward of a function whose forward keeps_autocast, and whose ctx has the `site`."""

    @wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        refuse_second_gradient(ctx.site)
        if ctx.autocast is None:
            return backward(ctx, *gradients)
        with torch.autocast(**ctx.autocast):
            return backward(ctx, *gradients)

    return run
