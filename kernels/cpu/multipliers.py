"""What the elements of each block are multiplied by, before they are rounded to codes and as codes' values.

By the formats' own formulas, from the blocks' largest magnitudes or from their scales: little beside the elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quantctl.kernels.formats import four_over_six, fp8, hifp4, hifp8, int8, mx, mxfp4, mxfp8, nvfp4
from quantctl.kernels.formats.blocks import WHOLE, Block, block_amax, block_of, split
from quantctl.kernels.formats.elements import Element, look_up
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.rounding import BIAS, LOW, finite_amax, power_of_two
from quantctl.spec import FormatSpec

_ALL = Block(WHOLE, WHOLE)


class Before(NamedTuple):
    """Of rows [..., n]."""

    first: Tensor
    """fp32, one a block; HiFloat8 is divided by it. NaN where codes are 0."""
    second: float
    """What the product is multiplied by."""
    block: Block
    block_scales: Tensor | None
    tensor_scale: Tensor | None


def element_of(spec: FormatSpec) -> Element | None:
    """None where elements are whole numbers."""
    format_ = FORMATS[spec.format]
    if isinstance(format_, mx.MX):
        return format_.elements[spec.elem]
    return mxfp4.E2M1 if spec.format == "nvfp4" else fp8.ELEMENTS.get(spec.elem)


def _of_mx(rows: Tensor, amax: Tensor, spec: FormatSpec, block: Block) -> Before:
    element, finite = element_of(spec), amax.isfinite()
    assert element is not None
    assert spec.scale is not None
    exponent = mx.shared_exponent(amax.where(finite, 1.0), element, spec.scale)
    byte = (exponent + BIAS).where(finite, mx.SCALE_NAN).to(torch.uint8)
    return Before(power_of_two(-exponent).where(finite, torch.nan), mx.headroom(spec), block, byte, None)


def _of_nvfp4(rows: Tensor, amax: Tensor, spec: FormatSpec, block: Block) -> Before | None:
    if spec.scale in four_over_six.ERRORS:
        return None  # it is chosen by the elements' errors
    of_tensor = nvfp4.amax_of(rows, spec, -1)
    b, inverse = nvfp4.scales_of(amax, of_tensor, spec)
    finite = b.isfinite()
    byte = mxfp8.E4M3.codes(b.where(finite, 0.0)).masked_fill(~finite, nvfp4.SCALE_NAN)
    return Before(inverse.where(finite, torch.nan), mx.headroom(spec), block, byte, nvfp4.kept_of(of_tensor, spec))


def _of_fp8(rows: Tensor, amax: Tensor, spec: FormatSpec, block: Block) -> Before:
    scale = fp8.scale_of(amax, spec, rows.dtype)
    return Before(scale, 1.0, block, scale.reciprocal(), None)


def _of_int8(rows: Tensor, amax: Tensor, spec: FormatSpec, block: Block) -> Before:
    scale, kept = int8.scales_of(amax, spec, rows.dtype)
    return Before(scale.reciprocal().masked_fill(scale == 0, 0.0), 1.0, block, kept, None)


_BEFORE: dict[str, Callable[[Tensor, Tensor, FormatSpec, Block], Before | None]] = {
    **dict.fromkeys(("mxfp8", "mxfp6", "mxfp4"), _of_mx),
    "nvfp4": _of_nvfp4,
    "fp8": _of_fp8,
    "int8": _of_int8,
}


def before(rows: Tensor, spec: FormatSpec) -> Before | None:
    """For contiguous rows [..., n] of any dtype; None where the elements themselves decide."""
    if spec.format == "hifp8":
        scale = None if spec.scale == "none" else hifp8.scale_of(finite_amax(rows), spec)
        return Before(torch.ones((), device="cpu") if scale is None else scale, 1.0, _ALL, None, scale)
    if spec.format not in _BEFORE:
        return None
    block = block_of(spec, FORMATS[spec.format].block)
    amax = block_amax(split(rows.float(), block), -1).squeeze(-1)
    return _BEFORE[spec.format](rows, amax, spec, block)


def _after_nvfp4(codes: Codes, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    assert codes.block_scales is not None
    assert codes.tensor_scale is not None
    b = look_up(mxfp8.E4M3.values(codes.block_scales), codes.block_scales)
    if spec.scale == "divide":
        return b, (codes.tensor_scale * (1 / mx.headroom(spec))).expand_as(b)
    return torch.ones_like(b), nvfp4.factors_of(b, codes.tensor_scale, spec)


def _after_hifp4(codes: Codes, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    of_fours = hifp4.factors_of_fours(codes)[..., : -(-codes.elements.shape[-1] // hifp4.FOUR)].contiguous()
    return torch.ones_like(of_fours), of_fours


def _after(codes: Codes, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    factors = FORMATS[spec.format].factors(codes, spec)
    factors = torch.ones((), device="cpu") if factors is None else factors
    return torch.ones_like(factors), factors


_AFTER = {"nvfp4": _after_nvfp4, "hifp4": _after_hifp4}


def after(codes: Codes, spec: FormatSpec) -> tuple[Tensor, Tensor] | None:
    """What values of codes are multiplied by, one after the other, fp32, each one a block; None where products may be
    subnormal."""
    first, second = _AFTER.get(spec.format, _after)(codes, spec)
    return None if bool((second < 2.0**LOW).any()) else (first, second)


def layout_of(spec: FormatSpec) -> Block:
    """The blocks of `after`."""
    if spec.format == "hifp4":
        return Block(1, hifp4.FOUR)
    format_ = FORMATS[spec.format]
    return block_of(spec, format_.block) if format_.has_blocks else _ALL


def values_of(spec: FormatSpec, like: Tensor) -> Tensor:
    """The value of every code, fp32, whatever its block's scales."""
    if spec.format == "hifp8":
        return hifp8.values_table(like).float()
    if (element := element_of(spec)) is not None:
        return element.values(like)
    if spec.format == "int8":
        return torch.arange(256, dtype=torch.int32, device="cpu").to(torch.int8).float()
    positive = torch.arange(hifp4.LARGEST + 1, device="cpu")
    return torch.cat((positive, -positive))
