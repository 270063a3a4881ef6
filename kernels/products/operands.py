"""What the operands of a product and of its two gradient products are, by the spec's `bwd`.

quantized: each gradient product quantizes its operands along its own reduction axis. dequantized: it uses the operands
of the forward, and the gradient as it is (straight-through). high_precision: everything as it is.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import coverage, hits
from quantctl.kernels.philox import Draw
from quantctl.spec import FormatSpec, canonical, parse


@lru_cache(maxsize=64)
def _resolve(text: str, site: str) -> tuple[FormatSpec, str]:
    return parse(text, site), canonical(text, site)


def resolve(text: str, site: str) -> FormatSpec:
    """The spec of selector value `text` at `site`; QuantctlError if it is unknown."""
    return _resolve(text, site)[0]


def count(site: str, product: str, text: str) -> None:
    """Count a product whose selector is not none."""
    if torch.compiler.is_compiling():
        _count_operator(site, product, text)
        return
    spec, name = _resolve(text, site)
    if not spec.is_none:
        hits.count(site, product, name)


@torch.library.custom_op("quantctl::count", mutates_args=())
def _count_operator(site: str, product: str, text: str) -> None:
    """`count` as one node of a torch.compile graph."""
    coverage.give_up()
    count(site, product, text)


@_count_operator.register_fake
def _(site: str, product: str, text: str) -> None:
    return None


if hasattr(_count_operator, "register_effect"):  # torch 2.10; before, a graph loses a node that nothing needs
    _count_operator.register_effect(torch.library.EffectType.ORDERED)


def forward_operand_in_backward(
    x: Tensor,
    spec: FormatSpec,
    own_axis: int,
    forward_axis: int,
    forward_draw: Draw | None,
    own_draw: Draw | None = None,
) -> Tensor:
    """Operand `x` of the forward as the gradient product that reduces along `own_axis` takes it.

    forward_axis and forward_draw are those of the forward: with bwd=dequantized they give the very same values again.
    own_draw: that of its own quantization, a new one if not given.
    """
    if spec.bwd == "quantized":
        return quantize_dequantize(x, spec, own_axis, rng=own_draw)
    if spec.bwd == "dequantized":
        return quantize_dequantize(x, spec, forward_axis, rng=forward_draw)
    return x


def gradient_operand(grad: Tensor, spec: FormatSpec, own_axis: int) -> Tensor:
    """The incoming gradient as the gradient product that reduces along `own_axis` takes it."""
    return quantize_dequantize(grad, spec, own_axis) if spec.bwd == "quantized" else grad
