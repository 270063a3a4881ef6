"""INT8: whole numbers to +-127 under one scale a row, a tensor or a 32x32 square.

    s     = amax(block) / 127    fp32; of rows and tensors rounded to the tensor's dtype
    q     = integer(x * (1 / s)) fp32, rounded by the spec's rule (nearest: half to even), at most 127
    value = q * s                of squares q * fp16(s)

Rows are torchao's quantize_int8_rowwise (prototype/quantized_training/int8.py), which all three products of its
Int8MixedPrecisionTrainingLinear take, and SwitchBack's (arXiv 2304.13013) inputs and gradients, whose weights have one
scale a tensor; squares with an fp16 scale are Jetfire's (arXiv 2403.12422). torchao takes no s below 1e-12: such rows
lose digits there. A block with NaN or Inf becomes NaN; one whose s is 0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_amax, block_of, join, split, through
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import lower, lowering, round_integers_
from quantctl.spec import FormatSpec

LARGEST = 127.0


def scales_of(amax: Tensor, spec: FormatSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """s of blocks with the largest magnitudes `amax`, before rounding to integers and behind it, fp32.

    NaN where amax is NaN or Inf. dtype: the tensor's.
    """
    in_squares = block_of(spec).across > 1
    kept = torch.float16 if in_squares else dtype
    # a number as a tensor: torch divides by a number by way of a rounded reciprocal
    scale = (amax / torch.full_like(amax, LARGEST)).masked_fill(~amax.isfinite(), torch.nan)
    rounded = scale.clamp_max(torch.finfo(kept).max).to(kept).float()
    return scale if in_squares else rounded, rounded


@dataclass(frozen=True)
class Int8:
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = 0
    scale_bytes: ClassVar[int] = 4

    def _quantize(
        self, values: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """q, and s behind the rounding, of fp32 blocks that fill `axis`."""
        assert spec.round is not None
        scale, kept = scales_of(block_amax(values, axis), spec, dtype)
        inverse = scale.reciprocal().masked_fill(scale == 0, 0.0)
        elements = round_integers_(values * inverse, spec.round, noise).clamp_(-LARGEST, LARGEST)
        return elements.add_(0.0), kept  # there is one zero

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` through INT8 in the spec's blocks along `axis` (>= 0). Same shape and dtype.

        Scales are those of the tensor given: under tensor parallelism, of the rank's shard.
        """
        if not x.numel():
            return torch.empty_like(x)

        def blocks(part: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
            return _dequantize(*self._quantize(part.float(), spec, axis, noise, x.dtype), x.dtype)

        return through(blocks, block_of(spec), x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return 8

    def largest_code(self, spec: FormatSpec) -> int:
        return int(LARGEST)

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        return codes.block_scales

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        """Elements are in two's complement."""
        block = block_of(spec)
        values, scale = self._quantize(
            split(x.float(), block), spec, -1, None if noise is None else split(noise, block), x.dtype
        )
        codes = values.where(scale.isfinite(), 0.0).to(torch.int8).view(torch.uint8)
        return Codes(join(codes, block, x.shape), scale.squeeze(-1), None)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        block, values = block_of(spec), codes.elements.contiguous().view(torch.int8).float()
        parts = _dequantize(split(values, block).contiguous(), codes.block_scales.unsqueeze(-1), dtype)
        return join(parts, block, values.shape)


def _dequantize(elements: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    by, factor = lowering(scale)
    return lower(elements.mul_(factor), by, dtype)


FORMAT = Int8()
