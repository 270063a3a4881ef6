"""`quantctl.quantize` and `quantctl.linear`: tensors through a format, and the products that a selector rules."""

from __future__ import annotations

from operator import index
from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError, quoted
from quantctl.kernels.formats.quantize import DTYPES, quantize_dequantize
from quantctl.kernels.products.linear import quantized_linear
from quantctl.spec import SEPARATOR, parse, products
from quantctl.spec.recipes import RECIPES

_FLOATS = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


def tensor(value: Any, what: str) -> Tensor:
    """`value`, a dense floating-point tensor that formats are defined for. Raises QuantctlError for anything else."""
    if not isinstance(value, Tensor):
        module = type(value).__module__.partition(".")[0]
        kind = type(value).__name__ if module == "builtins" else f"{module} {type(value).__name__}"
        raise QuantctlError(f"{what} is of type {kind}, not a tensor", "give a torch tensor: torch.as_tensor(...)")
    if value.dtype not in DTYPES:
        raise QuantctlError(
            f"{what} is a tensor of {str(value.dtype).removeprefix('torch.')}; formats take {_FLOATS}",
            "convert it first, knowing that bits may be lost: .to(torch.float32)",
        )
    if value.is_nested or value.layout is not torch.strided:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        way = ".unbind() gives its parts" if value.is_nested else ".to_dense()"
        raise QuantctlError(f"{what} is a {kind} tensor; formats take dense ones", f"make it one first: {way}")
    if value.dim() == 0:
        raise QuantctlError(f"{what} is a single number: it has no axis along which blocks lie", "reshape it: x[None]")
    return value


def text_of(value: Any) -> str:
    """A format, as text. Raises QuantctlError for anything else."""
    if not isinstance(value, str):
        raise QuantctlError(
            f"the format is of type {type(value).__name__}, not a text", "write it as in mxfp8:scale=floor"
        )
    return value


def literal_of(value: Any) -> str:
    """A format or a recipe's name, as the literal of linear layers. Raises QuantctlError for what is no text."""
    text = text_of(value)
    return RECIPES[text].linear if text in RECIPES else text


def _axis(value: Any) -> int:
    """An int of Python's, numpy's or another kind. Raises QuantctlError for what is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)
    except TypeError:
        kind = f"the axis is of type {type(value).__name__}, not an int"
        raise QuantctlError(kind, "give one axis, such as -1") from None


def quantize(x: Tensor, spec: str, axis: int = -1) -> Tensor:
    """The values of `x` that a format can hold, in x's own dtype and shape: quantized and dequantized.

    x: bfloat16, float16 or float32, dense, any shape of at least one dimension, on any device; never written to.
    spec: one format, such as "mxfp8" or "mxfp4:round=stochastic" (quantctl list formats); "none" gives x itself.
    axis: the axis along which blocks lie, which is the one that a product reduces.

    The result is a constant to autograd; for training there is `linear`. Raises QuantctlError for other input.
    """
    parse(text_of(spec))
    return quantize_dequantize(tensor(x, "x"), spec, _axis(axis))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, spec: str = "mxfp8") -> Tensor:
    """torch.nn.functional.linear with its three products in a format: what a patched Megatron layer computes.

    x: [..., in]; weight: [out, in]; bias: [out] or None; all of one dtype (bfloat16, float16 or float32) and device.
    spec: the format, of single operands and products too ("mxfp4:gradient.round=stochastic"); its `bwd` says what the
    two gradient products see; or a recipe's name (quantctl list recipes). It has no rules: this product has no layer,
    and no steps.
    Returns [..., out], differentiable once in x, weight and bias. Raises QuantctlError for other input.
    """
    spec = literal_of(spec)
    if SEPARATOR in spec:
        raise QuantctlError(
            f"{quoted(spec)} holds rules, and one product is in no layer", "give what is to hold for it"
        )
    products(spec)
    x, weight = tensor(x, "x"), tensor(weight, "weight")
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise QuantctlError(
            f"x of shape {list(x.shape)} does not go with a weight of shape {list(weight.shape)}",
            "give x [..., in] and weight [out, in]",
        )
    if bias is not None and tensor(bias, "bias").shape != weight.shape[:1]:
        shapes = f"the bias has shape {list(bias.shape)}, the weight {list(weight.shape)}"
        raise QuantctlError(shapes, "give bias [out] and weight [out, in]")
    others = [operand for operand in (weight, bias) if operand is not None]
    if any(operand.device != x.device for operand in others):
        raise QuantctlError("x, weight and bias lie on different devices", "move them to one: .to(x.device)")
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        dtypes = f"x is of {x.dtype}, the weight of {weight.dtype}"
        raise QuantctlError(dtypes, "give both in one dtype, or use torch.autocast")
    return quantized_linear(x, weight, bias, spec)
