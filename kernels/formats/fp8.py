"""FP8 under fp32 scales: E4M3 or E5M2 elements (OCP OFP8 v1.0), one scale a tensor, row, 1x128 or 128x128 block.

All of it in fp32, each operation rounded, as Transformer Engine's references have it (tensor: transformer_engine/
pytorch/custom_recipes/reference_current_scaling.py; blocks: tests/pytorch/references/blockwise_quantizer_reference.py):

    s     = largest element / amax(block)    1 where amax is 0; where the quotient is infinite, the largest number of
                                             the tensor's dtype. scale=pow2: the largest power of two <= s
    q     = element(x * s)                   rounded by the spec's rule, saturating
    value = q * (1 / s)

A block with NaN or Inf becomes NaN. DeepSeek-V3 (arXiv 2412.19437, 3.3) has scale=fp32 with 1x128 and 128x128 blocks,
Transformer Engine's Float8BlockScaling the same with scale=pow2, its Float8CurrentScaling one scale a tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantctl.kernels.formats.elements import Element, look_up
from quantctl.kernels.formats.mxfp8 import E4M3, E5M2
from quantctl.kernels.formats.rounding import binade
from quantctl.kernels.formats.scaled import Scaled
from quantctl.spec import FormatSpec

ELEMENTS: dict[str | None, Element] = {"e4m3": E4M3, "e5m2": E5M2}


def scale_of(amax: Tensor, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
    """s of blocks with the largest magnitudes `amax`, fp32; NaN where amax is NaN or Inf. dtype: the tensor's."""
    # a number as a tensor: torch divides a number by a tensor by way of a rounded reciprocal
    scale = torch.full_like(amax, ELEMENTS[spec.elem].largest) / amax
    scale = scale.masked_fill(scale == torch.inf, torch.finfo(dtype).max)
    if spec.scale == "pow2":
        scale = binade(scale)
    return scale.masked_fill(amax == 0, 1.0).masked_fill(~amax.isfinite(), torch.nan)


class FP8(Scaled):
    def quantized(
        self, values: Tensor, amax: Tensor, spec: FormatSpec, noise: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """q and 1 / s."""
        assert spec.round is not None
        scale = scale_of(amax, spec, dtype)
        return ELEMENTS[spec.elem].round_(values * scale, spec.round, noise), scale.reciprocal()

    def codes_of(self, elements: Tensor, spec: FormatSpec) -> Tensor:
        return ELEMENTS[spec.elem].codes(elements)

    def elements_of(self, codes: Tensor, spec: FormatSpec) -> Tensor:
        return look_up(ELEMENTS[spec.elem].values(codes), codes)

    def largest_code(self, spec: FormatSpec) -> int:
        return ELEMENTS[spec.elem].largest_code


FORMAT = FP8()
