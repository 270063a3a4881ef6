"""Block scaling of the OCP Microscaling formats (MX v1.0): blocks of 32 that share a power of two.

Section numbers are those of "OCP Microscaling Formats (MX) Specification, version 1.0".
A format is an Element; everything else is here. block=32x32 lets a square share its power of two, the same along both
axes (as Transformer Engine and MindSpeed quantize weights). headroom=3/4 is arXiv 2502.20586's: under scale=floor a
value lies below 8 / 6 of the largest element, so three quarters of it are rounded stochastically without clipping, and
4 / 3 of the result has the value's expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_amax, block_of, join, split, through
from quantctl.kernels.formats.elements import Element, look_up
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import BIAS, LOW, LOWER, MANTISSA_BITS, MANTISSA_MASK, lower, power_of_two
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


def headroom(spec: FormatSpec) -> float:
    """What elements are multiplied by before they are rounded; 1 where the spec leaves none."""
    over, _, under = (spec.headroom or "none").partition("/")
    return int(over) / int(under) if under else 1.0


def _dequantize(
    elements: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype, headroom: float = 1.0
) -> Tensor:
    """Section 5.1: X * P_i for X = 2^exponent; NaN where not `finite`. `elements` is overwritten."""
    by = (exponent < LOW).int() * LOWER
    scale = torch.where(finite, power_of_two(exponent + by), torch.nan)
    if headroom != 1.0:
        elements = elements.mul_(1 / headroom)
    return lower(elements.mul_(scale), by, dtype)


@dataclass(frozen=True)
class MX:
    """An MX format: its element types by the name that the spec's `elem` gives them (None: there is one only)."""

    elements: dict[str | None, Element]
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = BLOCK
    scale_bytes: ClassVar[int] = 1

    def _quantize(
        self, values: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Section 6.3 for fp32 blocks that fill `axis`: log2 X, whether the block is finite, P_i = V_i / X rounded."""
        assert spec.scale is not None
        assert spec.round is not None
        element = self.elements[spec.elem]
        amax = block_amax(values, axis)
        finite = amax.isfinite()
        exponent = shared_exponent(amax.where(finite, 1.0), element, spec.scale)
        # V_i / X by the inverse, as exact and never a subnormal: X is 2^126 at most
        elements = values * power_of_two(-exponent)
        if (factor := headroom(spec)) != 1.0:
            elements = elements.mul_(factor)
        return exponent, finite, element.round_(elements, spec.round, noise)

    def _quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        exponent, finite, elements = self._quantize(x.float(), spec, axis, noise)
        return _dequantize(elements, exponent, finite, x.dtype, headroom(spec))

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` through the format along `axis` (>= 0), with the scale rule and rounding of `spec`.

        Same shape and dtype. A tail shorter than 32 is a short block with its own scale. A block with NaN or Inf
        becomes NaN. Every result is exact in x's dtype, but for products X * P_i above its largest number
        (section 5.1 leaves them to the implementation): they become that number, as 65536 becomes 65504 in fp16.
        """
        return through(self._quantize_dequantize, block_of(spec, BLOCK), x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return self.elements[spec.elem].bits

    def largest_code(self, spec: FormatSpec) -> int:
        return self.elements[spec.elem].largest_code

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        assert codes.block_scales is not None
        byte = codes.block_scales.int()
        scale = power_of_two((byte - BIAS).clamp_max(BIAS)) * (1 / headroom(spec))
        return scale.masked_fill(byte == SCALE_NAN, torch.nan)

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        element, block = self.elements[spec.elem], block_of(spec, BLOCK)
        exponent, finite, elements = self._quantize(
            split(x.float(), block), spec, -1, None if noise is None else split(noise, block)
        )
        codes = element.codes(elements.where(finite, 0.0))
        scales = (exponent + BIAS).where(finite, SCALE_NAN).to(torch.uint8)
        return Codes(join(codes, block, x.shape), scales.squeeze(-1), None)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        byte, block = codes.block_scales.int().unsqueeze(-1), block_of(spec, BLOCK)
        values = look_up(self.elements[spec.elem].values(codes.elements), codes.elements)
        finite = byte != SCALE_NAN
        exponent = (byte - BIAS).where(finite, 0)
        parts = _dequantize(split(values, block).contiguous(), exponent, finite, dtype, headroom(spec))
        return join(parts, block, values.shape)
