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

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.rounding import round_integers_
from quantctl.kernels.formats.scaled import Scaled
from quantctl.spec import FormatSpec

LARGEST = 127.0
_FP32_LARGEST = torch.finfo(torch.float32).max


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


class Int8(Scaled):
    def quantized(
        self, values: Tensor, amax: Tensor, spec: FormatSpec, noise: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """q, and s behind the rounding."""
        assert spec.round is not None
        scale, kept = scales_of(amax, spec, dtype)
        inverse = scale.reciprocal().clamp_max_(_FP32_LARGEST).masked_fill(scale == 0, 0.0)
        elements = round_integers_(values * inverse, spec.round, noise).clamp_(-LARGEST, LARGEST)
        return elements.add_(0.0), kept  # there is one zero

    def codes_of(self, elements: Tensor, spec: FormatSpec) -> Tensor:
        """In two's complement."""
        return elements.to(torch.int8).view(torch.uint8)

    def elements_of(self, codes: Tensor, spec: FormatSpec) -> Tensor:
        return codes.contiguous().view(torch.int8).float()

    def largest_code(self, spec: FormatSpec) -> int:
        return int(LARGEST)


FORMAT = Int8()
