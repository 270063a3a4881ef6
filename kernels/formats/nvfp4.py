"""NVFP4: E2M1 elements in blocks of 16 with an E4M3 scale each, and one fp32 scale a tensor.

"Pretraining Large Language Models with NVFP4", arXiv 2509.25149, appendix on quantization; all of it in fp32, each
operation rounded, in this order:

    s_enc = 6 * 448 / amax(x)           tensor: amax is to become the largest element in a block of the largest scale
    s_dec = 1 / s_enc
    b     = E4M3(amax(block) / 6 * s_enc)    block: RNE, subnormals kept, saturating
    q     = E2M1(x * (1 / (b * s_dec)))      element: rounded by the spec's rule, saturating
    value = q * b * s_dec

q * b is exact in bf16. The product with s_dec is not: it is rounded to fp32 and then to x's dtype, which is the one
rounding that a hardware product, scaled after its accumulation, does not have.
NaN and Inf take no part in amax(x); their block becomes NaN (scale byte 0x7F). A block whose b is 0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats import rounding
from quantctl.kernels.formats.elements import look_up
from quantctl.kernels.formats.format import Codes, blocked, unblocked
from quantctl.kernels.formats.mx import block_amax, by_blocks
from quantctl.kernels.formats.mxfp4 import E2M1
from quantctl.kernels.formats.mxfp8 import E4M3
from quantctl.kernels.formats.rounding import MANTISSA_BITS, MANTISSA_MASK, finite_amax, lower, lowering
from quantctl.spec import FormatSpec

BLOCK = 16
LARGEST_ENCODE = 2.0**117
"""s_enc of tensors with amax < 2^-105 stops here: b * s_dec >= 2^-126 and its reciprocal stay normal numbers."""


def tensor_scales(amax: Tensor) -> tuple[Tensor, Tensor]:
    """s_enc and s_dec, fp32 [], of a tensor with that largest finite magnitude; both 1 for 0."""
    # numbers as tensors: torch divides by a number, and a number by a tensor, by way of a rounded reciprocal
    encode = (torch.full_like(amax, E2M1.largest * E4M3.largest) / amax).clamp_max(LARGEST_ENCODE)
    encode = encode.masked_fill(amax == 0, 1.0)
    return encode, encode.reciprocal()


def _sixth(amax: Tensor) -> tuple[Tensor, Tensor]:
    """amax / 6, rounded as IEEE 754 does, as a number that is not subnormal and a power of two to multiply by.

    A quotient below 2^-126 is an integer number of 2^-149: integers are divided, and the power is 2^-74 where the
    number is so many 2^-75.
    """
    plain = amax / torch.full_like(amax, E2M1.largest)
    is_small = amax < E2M1.largest * 2.0**-126
    if rounding.known_zero(is_small):
        return plain, torch.ones_like(amax)
    bits = amax.view(torch.int32)
    field = (bits >> MANTISSA_BITS).clamp_max(4)  # below 6 * 2^-126 it is 3 at most
    hidden = (field > 0).int()
    units = ((bits & MANTISSA_MASK) | (hidden << MANTISSA_BITS)) << (field - hidden)
    sixth, rest = units // 6, units % 6
    sixth += ((rest > 3) | ((rest == 3) & (sixth % 2 == 1))).int()
    quotient = torch.where(is_small, sixth.float() * 2.0**-75, plain)
    return quotient, torch.where(is_small, 2.0**-74, torch.ones_like(amax))


def block_scale(amax: Tensor, encode: Tensor) -> Tensor:
    """b of blocks with the largest magnitudes `amax`, fp32; NaN where amax is NaN or Inf."""
    sixth, power = _sixth(amax)
    scaled = sixth * (encode * power)
    return E4M3.round_(scaled.masked_fill(~amax.isfinite(), torch.nan), "nearest", None)


@dataclass(frozen=True)
class NVFP4:
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = BLOCK

    def _quantize(
        self, values: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, scales: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """q and b of fp32 blocks that fill `axis`."""
        assert spec.round is not None
        encode, decode = scales
        b = block_scale(block_amax(values, axis), encode)
        inverse = (b * decode).reciprocal_().masked_fill(b == 0, 0.0)
        return E2M1.round_(values * inverse, spec.round, noise), b

    def quantize_dequantize(
        self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, amax: Tensor | None = None
    ) -> Tensor:
        """`x` through NVFP4 along `axis` (>= 0). Same shape and dtype. A tail shorter than 16 is a short block.

        The tensor scale is that of the tensor given (under tensor parallelism, of the rank's shard), or follows from
        `amax`, the largest finite magnitudes of its parts, fp32 that broadcasts against x in blocks (axis and size).
        """
        scales = tensor_scales(finite_amax(x) if amax is None else amax)

        def blocks(part: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
            elements, b = self._quantize(part.float(), spec, axis, noise, scales)
            return _dequantize(elements, b, scales[1], x.dtype)

        return by_blocks(blocks, BLOCK, x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return E2M1.bits

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None, amax: Tensor | None = None) -> Codes:
        """amax: as in quantize_dequantize, for an axis that is the last; the codes' tensor scale has its shape."""
        values = x.float()
        scales = tensor_scales(finite_amax(x) if amax is None else amax)
        elements, b = self._quantize(
            blocked(values, BLOCK), spec, -1, None if noise is None else blocked(noise, BLOCK), scales
        )
        finite = b.isfinite()
        codes = E2M1.codes(elements.where(finite, 0.0))
        scale_codes = E4M3.codes(b.where(finite, 0.0)).masked_fill(~finite, 0x7F)
        return Codes(unblocked(codes, x.shape[-1]), scale_codes.squeeze(-1), scales[1])

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        assert codes.tensor_scale is not None
        b = look_up(E4M3.values(codes.elements), codes.block_scales).unsqueeze(-1)
        values = look_up(E2M1.values(codes.elements), codes.elements)
        blocks = _dequantize(blocked(values, BLOCK), b, codes.tensor_scale, dtype)
        return unblocked(blocks, values.shape[-1])


def _dequantize(elements: Tensor, b: Tensor, decode: Tensor, dtype: torch.dtype) -> Tensor:
    by, factor = lowering(decode)
    return lower(elements.mul_(b).mul_(factor), by, dtype)


FORMAT = NVFP4()
