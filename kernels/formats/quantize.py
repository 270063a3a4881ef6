"""`quantize_dequantize`: a tensor through a number format and back. The one entry to all formats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, REFERENCE, TRITON, family_of
from quantctl.kernels.formats import hifp8, mxfp4, mxfp6, mxfp8, nvfp4
from quantctl.kernels.formats.format import Format
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


def operand(x: Tensor, spec: FormatSpec) -> Tensor:
    """`x` outside of any autograd graph, its bits as its values are: what every implementation starts with.

    Raises QuantctlError if it cannot be quantized to `spec`: another dtype, no plain strided tensor, or `none`.
    """
    if not isinstance(x, Tensor):
        raise QuantctlError(f"{spec.format} cannot quantize a {type(x).__name__}", "give it a tensor")
    if spec.is_none or x.dtype not in DTYPES:
        raise QuantctlError(
            f"{spec.format} cannot quantize a tensor of {x.dtype}", "give it bfloat16, float16 or float32"
        )
    if torch.compiler.is_compiling():
        return x.detach()
    if x.layout is not torch.strided or x.is_nested or is_traceable_wrapper_subclass(x):
        raise QuantctlError(
            f"{spec.format} cannot quantize a {type(x).__name__} of layout {x.layout}, nested or made of other tensors",
            "give it a plain strided tensor: .to_dense(), or .to_local() of a DTensor",
        )
    return x.detach().resolve_neg()


def axis_of(x: Tensor, axis: int) -> int:
    """`axis` counted from the front. Raises QuantctlError if x does not have it."""
    if not -x.dim() <= axis < x.dim():
        has = f"its axes are {-x.dim()} to {x.dim() - 1}" if x.dim() else "it has no axes"
        raise QuantctlError(
            f"a tensor of shape {list(x.shape)} has no axis {axis}: {has}",
            "give the axis that the product reduces, along which the blocks lie",
        )
    return axis % x.dim()


def quantize_dequantize(x: Tensor, spec: FormatSpec | str, axis: int = -1, *, rng: philox.Draw | None = None) -> Tensor:
    """The values of `x` that the format can hold, in x's own dtype.

    x: bf16, fp16 or fp32, any shape and strides; it is never written to. spec: a FormatSpec or its literal; `none`
    returns x itself. axis: the reduction axis of the product, along which MX formats have their blocks of 32 and NVFP4
    those of 16 (a shorter tail is a block of its own). rng: the draw of stochastic rounding, a new one if not given.

    Returns a tensor of x's shape and dtype (and strides, where x has no gaps), outside of any autograd graph: gradients
    are the products' business (linear.py, attention.py). Shapes never depend on values, so it runs under torch.compile
    and on NPUs. Raises QuantctlError for other tensors, for an axis that x does not have and for unknown specs.
    """
    return quantize_dequantize_along(x, spec, (axis,), (rng,))[0]


def quantize_dequantize_along(
    x: Tensor, spec: FormatSpec | str, axes: tuple[int, ...], rngs: tuple[philox.Draw | None, ...] | None = None
) -> list[Tensor]:
    """quantize_dequantize along each of the axes; where kernels compute, x is read once for two if strides allow.

    rngs: a draw for each axis; new ones, in this order, where none is given.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if spec.is_none:
        return [x for _ in axes]
    x = operand(x, spec)
    format_ = FORMATS[spec.format]
    axes = tuple(axis_of(x, axis) for axis in axes)
    draws = tuple(draw_for(spec, rng) for rng in rngs or (None,) * len(axes))
    if len(axes) == 2 and not format_.has_blocks and spec.round != "stochastic":
        return quantize_dequantize_along(x, spec, axes[:1]) * 2  # the axis plays no role
    by = family_of(x)
    if by != REFERENCE and torch.compiler.is_compiling():
        return _node(x, spec, axes, draws)
    if by == TRITON:
        return _triton(x, spec, axes, draws)
    if by == CPU:
        from quantctl.kernels.cpu import qdq

        return qdq.quantize_dequantize(x, spec, axes, draws)
    return [
        format_.quantize_dequantize(x, spec, axis, None if draw is None else philox.uniform(x.shape, draw, x.device))
        for axis, draw in zip(axes, draws, strict=True)
    ]


def _triton(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[philox.Draw | None, ...]) -> list[Tensor]:
    from quantctl.kernels.triton import qdq as triton_qdq

    keys = {(draw.seed, draw.rank) for draw in draws if draw}
    if len(axes) != 1 and not (len(set(axes)) == len(axes) == 2 and len(keys) < 2):  # a launch has one key, two outputs
        return [_triton(x, spec, (axis,), (draw,))[0] for axis, draw in zip(axes, draws, strict=True)]
    return triton_qdq.quantize_dequantize(x, spec, axes, draws)


def _node(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[philox.Draw | None, ...]) -> list[Tensor]:
    """All of it as one node of a torch.compile graph."""
    text = f"{spec.format}:" + ",".join(f"{key}={value}" for key, value in spec.options().items())
    words = [word for draw in draws if draw for word in (draw.seed - (draw.seed >> 63 << 64), draw.call, draw.rank)]
    return list(_operator(x, text, list(axes), words))


# the schema in words: torch before 2.7 does not read it off list[int]
@torch.library.custom_op(
    "quantctl::quantize_dequantize", mutates_args=(), schema="(Tensor x, str spec, int[] axes, int[] draws) -> Tensor[]"
)
def _operator(x: Tensor, spec: str, axes: list[int], draws: list[int]) -> list[Tensor]:
    """draws: seed (as int64), call, rank of each axis."""
    given = tuple(philox.Draw(*draws[i : i + 3]) for i in range(0, len(draws), 3)) or (None,) * len(axes)
    return quantize_dequantize_along(x, spec, tuple(axes), given)


@_operator.register_fake
def _(x: Tensor, spec: str, axes: list[int], draws: list[int]) -> list[Tensor]:
    return [torch.empty_like(x) for _ in axes]
