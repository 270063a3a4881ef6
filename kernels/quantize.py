"""`quantize_dequantize`: a tensor through a number format and back. The one entry to all formats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import hifp8, mxfp4, mxfp8, philox
from quantctl.spec import FormatSpec, parse

# format -> (x, spec, axis >= 0, noise) -> tensor of x's shape and dtype
FORMATS: dict[str, Callable[[Tensor, FormatSpec, int, Tensor | None], Tensor]] = {
    "mxfp8": mxfp8.quantize_dequantize,
    "mxfp4": mxfp4.quantize_dequantize,
    "hifp8": hifp8.quantize_dequantize,
}

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw_for(spec: FormatSpec) -> philox.Draw | None:
    """A new draw if `spec` rounds stochastically; to be kept where a backward must see the same operand."""
    return philox.next_draw() if spec.round == "stochastic" else None


def quantize_dequantize(x: Tensor, spec: FormatSpec | str, axis: int = -1, *, rng: philox.Draw | None = None) -> Tensor:
    """The values of `x` that the format can hold, in x's own dtype.

    x: bf16, fp16 or fp32, any shape and strides; it is never written to. spec: a FormatSpec or its literal; `none`
    returns x itself. axis: the reduction axis of the product, along which MX formats have their blocks of 32 (a shorter
    tail is a block of its own). rng: the draw of stochastic rounding, a new one if not given.

    Returns a tensor of x's shape and dtype (and strides, where x has no gaps), outside of any autograd graph: gradients
    are the products' business (linear.py, attention.py). Shapes never depend on values, so it runs under torch.compile
    and on NPUs. Raises QuantctlError for other dtypes and for unknown specs.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if spec.is_none:
        return x
    if x.dtype not in DTYPES:
        raise QuantctlError(
            f"{spec.format} cannot quantize a tensor of {x.dtype}", "give it bfloat16, float16 or float32"
        )
    x = x.detach()
    noise = None
    if spec.round == "stochastic":
        noise = philox.uniform(x.shape, rng or philox.next_draw(), x.device)
    return FORMATS[spec.format](x, spec, axis % x.dim(), noise)
