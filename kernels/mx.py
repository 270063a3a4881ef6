"""Block scaling of the OCP Microscaling formats (MX v1.0): blocks of 32 that share a power of two.

Section numbers are those of "OCP Microscaling Formats (MX) Specification, version 1.0".
A format is an Element; everything else is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantctl.kernels.rounding import (
    BIAS,
    MANTISSA_BITS,
    MANTISSA_MASK,
    binade,
    power_of_two,
    round_integers_,
)
from quantctl.spec import FormatSpec

BLOCK = 32
"""k of section 5.2: all concrete MX formats have 32 elements a block."""
SCALE_RANGE = 127
"""E8M0 (section 5.4.1) holds 2^-127 .. 2^127 and NaN (0xFF)."""


@dataclass(frozen=True)
class Element:
    """An element type of section 5.3: value = +-2^exponent * 1.mantissa, with subnormals."""

    mantissa_bits: int
    min_exponent: int
    """Exponent of the smallest normal number; subnormals have its step."""
    max_exponent: int
    """emax of section 6.3: exponent of the largest normal number."""
    largest: float

    @property
    def largest_mantissa(self) -> int:
        """Mantissa of the largest number, in the 23 bits of fp32."""
        return int((self.largest / 2.0**self.max_exponent - 1) * 2**MANTISSA_BITS)


# What is added to the bits of amax so that the exponent field then holds emax + log2 X.
SCALE_RULES: dict[str, Callable[[Element], int]] = {
    # section 6.3: the largest power of two <= amax
    "floor": lambda element: 0,
    # amax's significand rounded to the element's mantissa first; ties only matter at 1.11..1, which go up
    "even": lambda element: 1 << (MANTISSA_BITS - 1 - element.mantissa_bits),
    # the smallest power of two >= amax
    "ceil": lambda element: MANTISSA_MASK,
    # the smallest X with amax / X <= largest (arXiv 2506.08027): one more than floor if
    # amax's mantissa exceeds that of the largest number. No division, so nothing is rounded on the way
    "rceil": lambda element: MANTISSA_MASK - element.largest_mantissa,
}


def shared_exponent(amax: Tensor, element: Element, rule: str) -> Tensor:
    """log2 of the block scale X as int32, clamped to E8M0's range; the scale byte is this plus 127.

    amax: fp32 >= 0. A zero block gives -127, byte 0. NaN and Inf are not treated here: their byte is 0xFF.
    """
    bits = amax.view(torch.int32) + SCALE_RULES[rule](element)
    return ((bits >> MANTISSA_BITS) - (BIAS + element.max_exponent)).clamp(-SCALE_RANGE, SCALE_RANGE)


def block_scale(amax: Tensor, element: Element, rule: str) -> Tensor:
    """The scale X to compute with, fp32: NaN where amax is NaN or Inf, 1 for a zero block.

    A zero block is zero under any scale. Its E8M0 value 2^-127 is a subnormal, and a device that flushes
    those would divide zero by zero.
    """
    scale = power_of_two(shared_exponent(amax, element, rule))
    return torch.where(amax.isfinite(), scale, torch.nan).masked_fill(amax == 0, 1.0)


def round_elements_(v: Tensor, element: Element, how: str, noise: Tensor | None) -> Tensor:
    """fp32 `v` rounded to values of the element type, saturating (section 6.3); NaN stays. v is overwritten."""
    # a subnormal element has the step of the smallest normal one
    step = binade(v).clamp_min_(2.0**element.min_exponent).mul_(2.0**-element.mantissa_bits)
    return round_integers_(v.div_(step), how, noise).mul_(step).clamp_(-element.largest, element.largest)


def _quantize_blocks(x: Tensor, element: Element, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """Section 6.3 for blocks that fill `axis`: X from the maximum, P_i = V_i / X rounded; section 5.1: X * P_i."""
    assert spec.scale is not None
    assert spec.round is not None
    values = x.float()
    # two reductions that write nothing are faster than |values| and one
    amax = torch.maximum(values.amax(axis, keepdim=True), -values.amin(axis, keepdim=True))
    scale = block_scale(amax, element, spec.scale)
    elements = round_elements_(values / scale, element, spec.round, noise)
    largest = torch.finfo(x.dtype).max
    return elements.mul_(scale).clamp_(-largest, largest).to(x.dtype)


def quantize_dequantize(x: Tensor, element: Element, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """`x` through the MX format of `element` along `axis` (>= 0), with the scale rule and rounding of `spec`.

    Same shape and dtype. A tail shorter than 32 is a short block with its own scale. A block with NaN or Inf becomes
    NaN. Every result is exact in x's dtype, but for products X * P_i above its largest number (section 5.1 leaves
    them to the implementation): they become that number, as 65536 becomes 65504 in fp16.
    """
    length = x.shape[axis]
    whole = length - length % BLOCK

    def piece(start: int, size: int, blocks: tuple[int, int]) -> Tensor:
        part, part_noise = (
            None if t is None else t.narrow(axis, start, size).unflatten(axis, blocks) for t in (x, noise)
        )
        assert part is not None
        return _quantize_blocks(part, element, spec, axis + 1, part_noise).flatten(axis, axis + 1)

    if whole == length:
        return piece(0, length, (length // BLOCK, BLOCK))
    out = torch.empty_like(x)
    out.narrow(axis, 0, whole).copy_(piece(0, whole, (whole // BLOCK, BLOCK)))
    out.narrow(axis, whole, length - whole).copy_(piece(whole, length - whole, (1, length - whole)))
    return out
