"""`quantize_dequantize`: a tensor through a number format and back. The one entry to all formats."""

from __future__ import annotations

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import hifp8, mxfp4, mxfp6, mxfp8, nvfp4, philox
from quantctl.kernels.dispatch import use_triton
from quantctl.kernels.format import Format
from quantctl.spec import FormatSpec, parse

FORMATS: dict[str, Format] = {
    "mxfp8": mxfp8.FORMAT,
    "mxfp6": mxfp6.FORMAT,
    "mxfp4": mxfp4.FORMAT,
    "nvfp4": nvfp4.FORMAT,
    "hifp8": hifp8.FORMAT,
}

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw_for(spec: FormatSpec, given: philox.Draw | None = None) -> philox.Draw | None:
    """`given` or a new draw if `spec` rounds stochastically; to be kept where a backward must see the same operand."""
    return (given or philox.next_draw()) if spec.round == "stochastic" else None


def refuse_dtype(x: Tensor, spec: FormatSpec) -> None:
    """Raises QuantctlError if x cannot be quantized to `spec`."""
    if spec.is_none or x.dtype not in DTYPES:
        raise QuantctlError(
            f"{spec.format} cannot quantize a tensor of {x.dtype}", "give it bfloat16, float16 or float32"
        )


def quantize_dequantize(x: Tensor, spec: FormatSpec | str, axis: int = -1, *, rng: philox.Draw | None = None) -> Tensor:
    """The values of `x` that the format can hold, in x's own dtype.

    x: bf16, fp16 or fp32, any shape and strides; it is never written to. spec: a FormatSpec or its literal; `none`
    returns x itself. axis: the reduction axis of the product, along which MX formats have their blocks of 32 and NVFP4
    those of 16 (a shorter tail is a block of its own). rng: the draw of stochastic rounding, a new one if not given.

    Returns a tensor of x's shape and dtype (and strides, where x has no gaps), outside of any autograd graph: gradients
    are the products' business (linear.py, attention.py). Shapes never depend on values, so it runs under torch.compile
    and on NPUs. Raises QuantctlError for other dtypes and for unknown specs.
    """
    return quantize_dequantize_along(x, spec, (axis,), (rng,))[0]


def quantize_dequantize_along(
    x: Tensor, spec: FormatSpec | str, axes: tuple[int, ...], rngs: tuple[philox.Draw | None, ...] | None = None
) -> list[Tensor]:
    """quantize_dequantize along each of one or two axes; where Triton computes, x is read once for both.

    rngs: a draw for each axis; new ones, in this order, where none is given.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if spec.is_none:
        return [x for _ in axes]
    refuse_dtype(x, spec)
    x = x.detach()
    format_ = FORMATS[spec.format]
    axes = tuple(axis % x.dim() for axis in axes)
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if len(axes) == 2 and not format_.has_blocks and spec.round != "stochastic":
        return quantize_dequantize_along(x, spec, axes[:1]) * 2  # the axis plays no role
    if use_triton(x.device):
        return _triton(x, spec, axes, draws)
    return [
        format_.quantize_dequantize(x, spec, axis, None if draw is None else philox.uniform(x.shape, draw, x.device))
        for axis, draw in zip(axes, draws, strict=True)
    ]


def _triton(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[philox.Draw | None, ...]) -> list[Tensor]:
    from quantctl.kernels import triton_qdq

    if len({(draw.seed, draw.rank) for draw in draws if draw}) > 1:  # one launch has one key
        return [_triton(x, spec, (axis,), (draw,))[0] for axis, draw in zip(axes, draws, strict=True)]
    if not torch.compiler.is_compiling():
        return triton_qdq.quantize_dequantize(x, spec, axes, draws)
    text = f"{spec.format}:" + ",".join(f"{key}={value}" for key, value in spec.options().items())
    words = [word for draw in draws if draw for word in (draw.seed - (draw.seed >> 63 << 64), draw.call, draw.rank)]
    return list(triton_qdq.as_operator(x, text, list(axes), words))
