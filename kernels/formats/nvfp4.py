"""NVFP4: E2M1 elements in blocks of 16 with an E4M3 scale each, and one fp32 scale a tensor.

All of it in fp32, each operation rounded, in this order. scale=divide, the default, is that of "Pretraining Large
Language Models with NVFP4", arXiv 2509.25149, appendix on quantization:

    s_enc = 6 * 448 / amax(x)           tensor: amax is to become the largest element in a block of the largest scale
    s_dec = 1 / s_enc
    b     = E4M3(amax(block) / 6 * s_enc)    block: RNE, subnormals kept, saturating
    q     = E2M1(x * (1 / (b * s_dec)))      element: rounded by the spec's rule, saturating
    value = q * b * s_dec

scale=multiply is Transformer Engine's kernels' and the hardware's (transformer_engine/pytorch/custom_recipes/
reference_nvfp4.py): b = E4M3(amax(block) * (s_enc * (1 / 6))), which next to ties of E4M3 is another number, and value
= q * ((b * amax(x)) * (1 / 2688)). four_over_six.py has scale=4over6 and 4over6_mse. extent=row: amax(x) is that of the
quantized axis' row. block=16x16: a square shares its scale, along both axes. headroom=16/17: b may be rounded down by
1/17 of what was wanted, so 16/17 of x are rounded stochastically, and 17/16 of the result is the value: nothing is
clipped, and the expectation is x wherever b is a normal number.

q * b is exact in bf16. The product with s_dec is not: it is rounded to fp32 and then to x's dtype, which is the one
rounding that a hardware product, scaled after its accumulation, does not have.
NaN and Inf take no part in amax(x); their block becomes NaN (scale byte 0x7F). A block whose b is 0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats import four_over_six, rounding
from quantctl.kernels.formats.blocks import block_amax, block_of, join, split, through
from quantctl.kernels.formats.elements import look_up
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.mx import headroom
from quantctl.kernels.formats.mxfp4 import E2M1
from quantctl.kernels.formats.mxfp8 import E4M3
from quantctl.kernels.formats.rounding import MANTISSA_BITS, MANTISSA_MASK, finite_amax, lower, lowering
from quantctl.spec import FormatSpec

BLOCK = 16
SCALE_NAN = 0x7F
LARGEST_ENCODE = 2.0**117
"""s_enc of tensors with amax < 2^-105 stops here: b * s_dec >= 2^-126 and its reciprocal stay normal numbers."""
_FP32_LARGEST = torch.finfo(torch.float32).max
_LARGEST = E2M1.largest * E4M3.largest


def tensor_scales(amax: Tensor) -> tuple[Tensor, Tensor]:
    """s_enc and s_dec, fp32 [], of a tensor with that largest finite magnitude; both 1 for 0."""
    # numbers as tensors: torch divides by a number, and a number by a tensor, by way of a rounded reciprocal
    encode = (torch.full_like(amax, _LARGEST) / amax).clamp_max(LARGEST_ENCODE)
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


def multiplied_scales(amax: Tensor) -> tuple[Tensor, Tensor]:
    """s_enc * (1 / 6) and 1 / s_enc as scale=multiply has them, fp32 of amax's shape."""
    encode = (torch.full_like(amax, _LARGEST) / amax).clamp_max(_FP32_LARGEST)
    return encode * torch.full_like(amax, E2M1.largest).reciprocal(), encode.reciprocal()


def _multiplied(amax: Tensor, of_tensor: Tensor) -> tuple[Tensor, Tensor]:
    """b of blocks as scale=multiply has it, and what their elements are multiplied by before rounding."""
    encode, decode = multiplied_scales(of_tensor)
    b = E4M3.round_((amax * encode).masked_fill(~amax.isfinite(), torch.nan), "nearest", None)
    return b, (b * decode).reciprocal().clamp_max(_FP32_LARGEST)


def scales_of(amax: Tensor, of_tensor: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """b of blocks with the largest magnitudes `amax`, and what their elements are multiplied by before rounding.

    of_tensor: that of the tensor or row, finite. Not for 4over6, whose b depends on the elements.
    """
    if spec.scale == "multiply":
        return _multiplied(amax, of_tensor)
    encode, decode = tensor_scales(of_tensor)
    b = block_scale(amax, encode)
    return b, (b * decode).reciprocal_().masked_fill(b == 0, 0.0)


def amax_of(x: Tensor, spec: FormatSpec, axis: int) -> Tensor:
    """The largest finite magnitude, fp32, of the tensor [] or of each row: x's shape, the axis of length 1."""
    if spec.extent != "row":
        return finite_amax(x)
    return block_amax(x.float().nan_to_num(0.0, 0.0, 0.0), axis)


@dataclass(frozen=True)
class NVFP4:
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = BLOCK
    scale_bytes: ClassVar[int] = 1

    def _quantize(
        self, values: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, amax: Tensor
    ) -> tuple[Tensor, Tensor]:
        """q and b of fp32 blocks that fill `axis`, of a tensor or of rows with the largest finite magnitude `amax`."""
        assert spec.round is not None
        if spec.scale in four_over_six.ERRORS:
            return four_over_six.quantize(values, axis, amax, spec)
        b, inverse = scales_of(block_amax(values, axis), amax, spec)
        elements = values * inverse
        if (factor := headroom(spec)) != 1.0:
            elements = elements.mul_(factor)
        # under a scale that is 0 or nearly so the product may be infinite
        return E2M1.round_(elements.clamp_(-E2M1.largest, E2M1.largest), spec.round, noise), b

    def quantize_dequantize(
        self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, amax: Tensor | None = None
    ) -> Tensor:
        """`x` through NVFP4 along `axis` (>= 0). Same shape and dtype. A tail shorter than 16 is a short block.

        The tensor scale is that of the tensor given (under tensor parallelism, of the rank's shard), or follows from
        `amax`, the largest finite magnitudes of its parts, fp32 that broadcasts against x in blocks (axis and size).
        """
        if not x.numel():
            return torch.empty_like(x)
        if amax is None:
            amax = amax_of(x, spec, axis)
            amax = amax.unsqueeze(axis) if amax.dim() else amax

        def blocks(part: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
            elements, b = self._quantize(part.float(), spec, axis, noise, amax)
            return _dequantize(elements, b, kept_of(amax, spec), spec, x.dtype)

        return through(blocks, block_of(spec, BLOCK), x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return E2M1.bits

    def largest_code(self, spec: FormatSpec) -> int:
        return E2M1.largest_code

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        assert codes.block_scales is not None
        assert codes.tensor_scale is not None
        return factors_of(look_up(E4M3.values(codes.block_scales), codes.block_scales), codes.tensor_scale, spec)

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None, amax: Tensor | None = None) -> Codes:
        """amax: as in quantize_dequantize, for an axis that is the last; the codes' tensor scale has its shape."""
        values, block = x.float(), block_of(spec, BLOCK)
        if amax is None:
            amax = amax_of(x, spec, -1)
        in_blocks = amax.unsqueeze(-1) if spec.extent == "row" else amax
        elements, b = self._quantize(
            split(values, block), spec, -1, None if noise is None else split(noise, block), in_blocks
        )
        finite = b.isfinite()
        codes = E2M1.codes(elements.where(finite, 0.0))
        scale_codes = E4M3.codes(b.where(finite, 0.0)).masked_fill(~finite, SCALE_NAN)
        return Codes(join(codes, block, x.shape), scale_codes.squeeze(-1), kept_of(amax, spec))

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        assert codes.tensor_scale is not None
        block, of_tensor = block_of(spec, BLOCK), codes.tensor_scale
        b = look_up(E4M3.values(codes.elements), codes.block_scales).unsqueeze(-1)
        values = look_up(E2M1.values(codes.elements), codes.elements)
        in_blocks = of_tensor.unsqueeze(-1) if spec.extent == "row" else of_tensor
        return join(_dequantize(split(values, block).contiguous(), b, in_blocks, spec, dtype), block, values.shape)


def kept_of(amax: Tensor, spec: FormatSpec) -> Tensor:
    """What is kept of a tensor or row beside its blocks: s_dec, or amax where the values are made of that."""
    return tensor_scales(amax)[1] if spec.scale in (None, "divide") else amax


def factors_of(b: Tensor, of_tensor: Tensor, spec: FormatSpec) -> Tensor:
    """What the elements of blocks are multiplied by, fp32."""
    if spec.scale in (None, "divide"):
        return b * of_tensor * (1 / headroom(spec))
    limit = four_over_six.SCALE_LIMIT if spec.scale in four_over_six.ERRORS else E4M3.largest
    return (b * of_tensor) * (1 / (E2M1.largest * limit)) * (1 / headroom(spec))


def _dequantize(elements: Tensor, b: Tensor, of_tensor: Tensor, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
    if spec.scale in (None, "divide"):
        elements = elements.mul_(b)
        b = of_tensor if headroom(spec) == 1.0 else of_tensor * (1 / headroom(spec))
    else:
        b = factors_of(b, of_tensor, spec)
    by, factor = lowering(b)
    return lower(elements.mul_(factor), by, dtype)


FORMAT = NVFP4()
