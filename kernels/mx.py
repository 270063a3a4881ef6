"""Block scaling of the OCP Microscaling formats (MX v1.0): blocks of 32 that share a power of two.

Section numbers are those of "OCP Microscaling Formats (MX) Specification, version 1.0".
A format is an Element; everything else is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.elements import Element, look_up
from quantctl.kernels.format import Codes, blocked, unblocked
from quantctl.kernels.rounding import BIAS, MANTISSA_BITS, MANTISSA_MASK, power_of_two
from quantctl.spec import FormatSpec

BLOCK = 32
"""k of section 5.2: all concrete MX formats have 32 elements a block."""
SCALE_RANGE = 127
"""E8M0 (section 5.4.1) holds 2^-127 .. 2^127 and NaN (0xFF)."""
SCALE_NAN = 0xFF

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


def block_amax(values: Tensor, axis: int) -> Tensor:
    """max |values| along `axis`, which stays with length 1; NaN if there is a NaN."""
    # two reductions that write nothing are faster than |values| and one
    amax = torch.maximum(values.amax(axis, keepdim=True), -values.amin(axis, keepdim=True))
    return amax.abs_()  # of zeros it may be -0


def _dequantize(elements: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Section 5.1: X * P_i. `elements` is overwritten."""
    largest = torch.finfo(dtype).max
    return elements.mul_(scale).clamp_(-largest, largest).to(dtype)


@dataclass(frozen=True)
class MX:
    """An MX format: its element types by the name that the spec's `elem` gives them (None: there is one only)."""

    elements: dict[str | None, Element]
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = BLOCK

    def _quantize(self, values: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Section 6.3 for fp32 blocks that fill `axis`: amax, and P_i = V_i / X rounded with X from amax."""
        assert spec.scale is not None
        assert spec.round is not None
        element = self.elements[spec.elem]
        amax = block_amax(values, axis)
        return amax, element.round_(values / block_scale(amax, element, spec.scale), spec.round, noise)

    def _quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        assert spec.scale is not None
        amax, elements = self._quantize(x.float(), spec, axis, noise)
        return _dequantize(elements, block_scale(amax, self.elements[spec.elem], spec.scale), x.dtype)

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` through the format along `axis` (>= 0), with the scale rule and rounding of `spec`.

        Same shape and dtype. A tail shorter than 32 is a short block with its own scale. A block with NaN or Inf
        becomes NaN. Every result is exact in x's dtype, but for products X * P_i above its largest number
        (section 5.1 leaves them to the implementation): they become that number, as 65536 becomes 65504 in fp16.
        """
        return by_blocks(self._quantize_dequantize, BLOCK, x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return self.elements[spec.elem].bits

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        assert spec.scale is not None
        element = self.elements[spec.elem]
        amax, elements = self._quantize(
            blocked(x.float(), BLOCK), spec, -1, None if noise is None else blocked(noise, BLOCK)
        )
        finite = amax.isfinite()
        codes = element.codes(elements.where(finite, 0.0))
        scales = (shared_exponent(amax, element, spec.scale) + BIAS).where(finite, SCALE_NAN).to(torch.uint8)
        return Codes(unblocked(codes, x.shape[-1]), scales.squeeze(-1), None)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        byte = codes.block_scales.int().unsqueeze(-1)
        scale = power_of_two(byte - BIAS).masked_fill(byte == SCALE_NAN, torch.nan)
        values = look_up(self.elements[spec.elem].values(codes.elements.device), codes.elements)
        return unblocked(_dequantize(blocked(values, BLOCK), scale, dtype), values.shape[-1])


def by_blocks(
    quantize_dequantize: Callable[[Tensor, FormatSpec, int, Tensor | None], Tensor],
    size: int,
    x: Tensor,
    spec: FormatSpec,
    axis: int,
    noise: Tensor | None,
) -> Tensor:
    """`quantize_dequantize` on views of `x` in which blocks of `size` along `axis` fill axis + 1; x's shape again."""
    length = x.shape[axis]
    whole = length - length % size

    def piece(start: int, length: int, blocks: tuple[int, int]) -> Tensor:
        part, part_noise = (
            None if t is None else t.narrow(axis, start, length).unflatten(axis, blocks) for t in (x, noise)
        )
        assert part is not None
        return quantize_dequantize(part, spec, axis + 1, part_noise).flatten(axis, axis + 1)

    if whole == length:
        return piece(0, length, (length // size, size))
    out = torch.empty_like(x)
    out.narrow(axis, 0, whole).copy_(piece(0, whole, (whole // size, size)))
    out.narrow(axis, whole, length - whole).copy_(piece(whole, length - whole, (1, length - whole)))
    return out
