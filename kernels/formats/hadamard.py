"""The Hadamard transform of both operands of a product along the axis that it reduces, before they are quantized.

    y = (x * s) H / sqrt(n)     for each n neighbours x along the axis; H: Sylvester's matrix, s: n signs

H H^T = n, so (A H_s) (B H_s)^T = A B^T but for rounding, while an outlier is spread over n values. One vector s serves
all rows and blocks: none (all +), Transformer Engine's fixed one for n = 16 (transformer_engine/pytorch/
custom_recipes/reference_nvfp4.py), or random ones, new for each product and step (arXiv 2502.20586; philox.py).
Sums are in fp32, as a butterfly: neighbours one apart first, then two, four, ...; then the factor 1 / sqrt(n), and with
hadamard_out=operand, as Transformer Engine has it, one rounding to x's dtype; with fp32, as AMD's Primus-Turbo, none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, family_of
from quantctl.kernels.tables import table
from quantctl.spec import NONE, FormatSpec

FIXED_SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)


@table
def _fixed_signs() -> Tensor:
    return torch.tensor(FIXED_SIGNS, dtype=torch.float32, device="cpu")


def is_wanted(spec: FormatSpec) -> bool:
    return spec.transform[0] != NONE


def size_of(spec: FormatSpec) -> int:
    """Of the lines that are transformed; 1 without a transform."""
    return int(spec.transform[0]) if is_wanted(spec) else 1


@lru_cache(maxsize=256)
def without(spec: FormatSpec) -> FormatSpec:
    """What is left of a spec behind its transform."""
    if not is_wanted(spec):
        return spec
    return replace(spec, hadamard=NONE, signs=NONE, hadamard_out="operand")


def butterfly(y: Tensor) -> Tensor:
    """y [..., n] times Sylvester's matrix; n: a power of two."""
    n, apart = y.shape[-1], 1
    while apart < n:
        first, second = y.unflatten(-1, (-1, 2, apart)).unbind(-2)
        y = torch.stack((first + second, first - second), -2).flatten(-3)
        apart *= 2
    return y


def fits(length: int, spec: FormatSpec) -> bool:
    """Whether the transform divides an axis of `length`."""
    return length % size_of(spec) == 0


def check_fits(x: Tensor, spec: FormatSpec, *axes: int) -> None:
    """Raises QuantctlError for a transform whose size does not divide each of the axes."""
    for axis in axes:
        if not fits(x.shape[axis], spec):
            raise QuantctlError(
                f"hadamard={spec.transform[0]} does not divide {x.shape[axis]}, the size of axis {axis} of a tensor of "
                f"shape {list(x.shape)}",
                "choose a size that does, or hadamard=none there",
            )


def lowered(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Quantized values behind a transform in the dtype of what was transformed, limited to its largest number."""
    largest = torch.finfo(dtype).max
    return values if values.dtype == dtype else values.clamp(-largest, largest).to(dtype)


def signs_of(spec: FormatSpec, draw: philox.Draw | None, like: Tensor) -> Tensor | None:
    """The signs of a line, fp32 [size] on the device of `like`; None where all are +."""
    if spec.signs == "fixed":
        return _fixed_signs(like)
    if spec.signs != "random":
        return None
    assert draw is not None
    return philox.random_signs(size_of(spec), draw, like.device)


def transformed(x: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    """x (bf16, fp16 or fp32) behind the spec's transform along `axis` (>= 0), in its dtype or fp32; itself if there is
    none.

    draw: whose `signs` random ones are. Raises QuantctlError as check_fits does.
    """
    if not is_wanted(spec):
        return x
    check_fits(x, spec, axis)
    if not torch.compiler.is_compiling() and family_of(x) == CPU:
        from quantctl.kernels.cpu import hadamard as cpu_hadamard

        return cpu_hadamard.transformed(x, spec, axis, draw)[0]
    return reference(x, spec, axis, draw)


def behind(
    x: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None, quantize: Callable[[Tensor, FormatSpec], Tensor]
) -> Tensor:
    """What `quantize` makes, by the rest of the spec, of x behind its transform along `axis`; in x's dtype."""
    return lowered(quantize(transformed(x, spec, axis, draw), without(spec)), x.dtype)


def reference(x: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None) -> Tensor:
    """`transformed` for a spec that has a transform, of a size that divides the axis."""
    size = size_of(spec)
    y = x.movedim(axis, -1).float().unflatten(-1, (-1, size))
    signs = signs_of(spec, draw, y)
    y = y if signs is None else y * signs
    y = butterfly(y).mul(size**-0.5).flatten(-2)
    if spec.hadamard_out != "fp32":
        y = y.to(x.dtype)
    return y.movedim(-1, axis).contiguous()
