"""`quantize_dequantize`: a tensor through a number format and back. The one entry to all formats."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, REFERENCE, TRITON, family_of
from quantctl.kernels.formats import fp8, hifp4, hifp8, int8, mxfp4, mxfp6, mxfp8, nvfp4
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.format import Format
from quantctl.kernels.formats.hadamard import behind, check_fits, is_wanted
from quantctl.spec import FormatSpec, parse

FORMATS: dict[str, Format] = {
    "mxfp8": mxfp8.FORMAT,
    "mxfp6": mxfp6.FORMAT,
    "mxfp4": mxfp4.FORMAT,
    "nvfp4": nvfp4.FORMAT,
    "fp8": fp8.FORMAT,
    "int8": int8.FORMAT,
    "hifp8": hifp8.FORMAT,
    "hifp4": hifp4.FORMAT,
}

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw_for(spec: FormatSpec, given: philox.Draw | None = None) -> philox.Draw | None:
    """`given` or a new draw if `spec` rounds stochastically or has random signs; to be kept where a backward must see
    the same operand."""
    return (given or philox.next_draw()) if spec.is_random else None


def noise_for(x: Tensor, spec: FormatSpec, draw: philox.Draw | None) -> Tensor | None:
    """That of stochastic rounding, fp32 of x's shape; None for other rounding."""
    if spec.round != "stochastic":
        return None
    assert draw is not None
    return philox.uniform(x.shape, draw, x.device)


def is_same_along_all_axes(spec: FormatSpec) -> bool:
    """Whether a matrix quantized along one of its axes is the same as along the other."""
    if spec.is_random or is_wanted(spec) or spec.extent == "row":
        return False
    format_ = FORMATS[spec.format]
    return not format_.has_blocks or block_of(spec, format_.block).is_square


def is_as_stored(x: Tensor) -> bool:
    """Whether x is a plain strided tensor of a dtype that can be quantized, whose bits in memory are its values."""
    is_plain = type(x) in (Tensor, torch.nn.Parameter) and x.layout is torch.strided and not x.is_nested
    # a sign that is only noted, and autograd's zeros, which have no memory
    return is_plain and x.dtype in DTYPES and not x.is_neg() and not x._is_zerotensor()


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
    if torch.compiler.is_compiling() or is_as_stored(x):
        return x.detach()
    if x.layout is not torch.strided or x.is_nested or is_traceable_wrapper_subclass(x):
        raise QuantctlError(
            f"{spec.format} cannot quantize a {type(x).__name__} of layout {x.layout}, nested or made of other tensors",
            "give it a plain strided tensor: .to_dense(), or .to_local() of a DTensor",
        )
    x = x.detach().resolve_neg()
    return x.clone() if x._is_zerotensor() else x


def _in_squares(spec: FormatSpec) -> bool:
    """Whether a block lies in two axes."""
    format_ = FORMATS[spec.format]
    return format_.has_blocks and block_of(spec, format_.block).across > 1


class Way(NamedTuple):
    """What a spec and the axes along which it quantizes say, whatever the tensor."""

    axes: tuple[int, ...]
    """Counted from the front."""
    is_once: bool
    """Whether two axes give the same."""
    is_transformed: bool
    is_random: bool


def _way_of(spec: FormatSpec, axes: tuple[int, ...], shape: torch.Size) -> Way:
    """For tensors of `shape`. Raises QuantctlError for an axis that they do not have, and for one that the spec's
    square blocks do not lie along, too."""
    dim = len(shape)
    for axis in axes:
        if not -dim <= axis < dim:
            has = f"its axes are {-dim} to {dim - 1}" if dim else "it has no axes"
            raise QuantctlError(
                f"a tensor of shape {list(shape)} has no axis {axis}: {has}",
                "give the axis that the product reduces, along which the blocks lie",
            )
    found = tuple(axis % dim for axis in axes)
    if _in_squares(spec) and any(axis < dim - 2 for axis in found):
        raise QuantctlError(
            f"block={spec.block} lies in the last two axes of a tensor of shape {list(shape)}, not in {min(found)}",
            "give one of the last two axes, or a tensor of two",
        )
    is_once = len(axes) == 2 and is_same_along_all_axes(spec)
    return Way(found, is_once, is_wanted(spec), spec.is_random)


way_of = lru_cache(maxsize=1024)(_way_of)


def axes_of(x: Tensor, axes: tuple[int, ...], spec: FormatSpec) -> tuple[int, ...]:
    """Each of axes counted from the front. Raises as way_of does."""
    return way_of(spec, axes, x.shape).axes


def quantize_dequantize(x: Tensor, spec: FormatSpec | str, axis: int = -1, *, rng: philox.Draw | None = None) -> Tensor:
    """The values of `x` that the format can hold, in x's own dtype.

    x: bf16, fp16 or fp32, any shape and strides; it is never written to. spec: a FormatSpec or its literal; `none`
    returns x itself. axis: the reduction axis of the product, along which blocks lie (a shorter tail is a block of its
    own). With a Hadamard transform the values are those behind it. rng: the draw of stochastic rounding and random
    signs, a new one if not given.

    Returns a tensor of x's shape and dtype (and strides, where x has no gaps), outside of any autograd graph: gradients
    are the products' business (linear.py, attention.py). Shapes never depend on values, so it runs under torch.compile
    and on NPUs. Raises QuantctlError for other tensors, for an axis that x does not have and for unknown specs.
    """
    return quantize_dequantize_along(x, spec, (axis,), (rng,))[0]


def quantize_dequantize_along(
    x: Tensor,
    spec: FormatSpec | str,
    axes: tuple[int, ...],
    rngs: tuple[philox.Draw | None, ...] | None = None,
    *,
    gaps: bool = False,
) -> list[Tensor]:
    """quantize_dequantize along each of the axes; where kernels compute, x is read once for two if strides allow.

    rngs: a draw for each axis; new ones, in this order, where none is given. gaps: a matrix's results may have gaps
    between rows, where the product of their columns is faster so (on a CPU, of rows of whole pages).
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if spec.is_none:
        return [x for _ in axes]
    x = operand(x, spec)
    compiling = torch.compiler.is_compiling()
    way = (_way_of if compiling else way_of)(spec, axes, x.shape)  # a graph is traced through no cache
    axes = way.axes
    draws: tuple[philox.Draw | None, ...] = (None,) * len(axes)
    if way.is_random:
        draws = tuple(draw_for(spec, rng) for rng in rngs or draws)
    if way.is_once:
        return quantize_dequantize_along(x, spec, axes[:1], gaps=gaps) * 2
    by = family_of(x, spec)
    if compiling and (by != REFERENCE or spec.signs == "random"):
        return _node(x, spec, axes, draws)
    if by == TRITON:
        if way.is_transformed:
            check_fits(x, spec, *axes)
        return _triton(x, spec, axes, draws)
    if by == CPU:
        return _cpu_kernels().quantize_dequantize(x, spec, axes, draws, gaps)
    if way.is_transformed:
        each = zip(axes, draws, strict=True)
        return [_transformed(x, spec, axis, draw) for axis, draw in each]
    return [
        FORMATS[spec.format].quantize_dequantize(x, spec, axis, noise_for(x, spec, draw))
        for axis, draw in zip(axes, draws, strict=True)
    ]


def quantize_dequantize_both(
    x: Tensor,
    spec: FormatSpec,
    rngs: tuple[philox.Draw | None, philox.Draw | None],
    *,
    gaps: bool = False,
    by: str | None = None,
) -> tuple[Tensor, Tensor]:
    """x [..., n], contiguous, along its last axis, in its own shape, and along the others flattened, [rows, n].

    rngs, gaps: as quantize_dequantize_along's. by: what family_of says of x, where the caller has asked.
    """
    if (by or family_of(x, spec)) == CPU and not torch.compiler.is_compiling() and is_as_stored(x):
        found = _cpu_kernels().both(x, spec, gaps)
        if found is not None:
            return found
    x = operand(x, spec)
    values, along_rows = quantize_dequantize_along(x.reshape(-1, x.shape[-1]), spec, (1, 0), rngs, gaps=gaps)
    return values.view(x.shape), along_rows


@lru_cache(maxsize=1)
def _cpu_kernels() -> Any:
    """The module: looked for once, which in every call would be noticed."""
    from quantctl.kernels.cpu import qdq

    return qdq


def _transformed(x: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    return behind(x, spec, axis, draw, lambda y, rest: quantize_dequantize(y, rest, axis, rng=draw))


def _triton(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[philox.Draw | None, ...]) -> list[Tensor]:
    from quantctl.kernels.triton import qdq as triton_qdq

    keys = {(draw.seed, draw.rank) for draw in draws if draw}
    if len(axes) != 1 and not (len(set(axes)) == len(axes) == 2 and len(keys) < 2):  # a launch has one key, two outputs
        return [_triton(x, spec, (axis,), (draw,))[0] for axis, draw in zip(axes, draws, strict=True)]
    return triton_qdq.quantize_dequantize(x, spec, axes, draws)


def _node(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[philox.Draw | None, ...]) -> list[Tensor]:
    """All of it as one node of a torch.compile graph."""
    return list(_operator(x, spec.text, list(axes), philox.words_of(draws)))


# the schema in words: torch before 2.7 does not read it off list[int]
@torch.library.custom_op(
    "quantctl::quantize_dequantize", mutates_args=(), schema="(Tensor x, str spec, int[] axes, int[] draws) -> Tensor[]"
)
def _operator(x: Tensor, spec: str, axes: list[int], draws: list[int]) -> list[Tensor]:
    """draws: philox.words_of those of each axis."""
    return quantize_dequantize_along(x, spec, tuple(axes), philox.draws_of(draws, len(axes)))


@_operator.register_fake
def _(x: Tensor, spec: str, axes: list[int], draws: list[int]) -> list[Tensor]:
    return [torch.empty_like(x) for _ in axes]
