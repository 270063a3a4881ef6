"""The one scale of a whole tensor, beside or instead of its blocks': NVFP4 has it, HiFloat8 if its spec says so."""

from __future__ import annotations

import torch
from torch import Tensor

from quantctl.kernels.formats import fp8, hifp8, int8, nvfp4
from quantctl.spec import NONE, FormatSpec

SCALED: dict[str, nvfp4.NVFP4 | hifp8.HiFloat8] = {"nvfp4": nvfp4.FORMAT, "hifp8": hifp8.FORMAT}
"""The formats that can have one: their functions take the largest magnitudes from outside, too."""


def has_tensor_scale(spec: FormatSpec) -> bool:
    """Whether all elements are multiplied by a number that follows from all of them, beside what blocks have."""
    return spec.format == "nvfp4" or (spec.format == "hifp8" and spec.scale != "none")


def extent_of(spec: FormatSpec) -> str:
    """What has to be read to its end before its first element can be quantized: none, row or tensor."""
    if "row" in (spec.extent, spec.block):
        return "row"
    return "tensor" if has_tensor_scale(spec) or spec.block == "tensor" else NONE


def factors(amax: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """What elements are multiplied by before rounding and after it, fp32 of amax's shape.

    amax: fp32, the largest finite magnitude of each tensor.
    """
    if spec.format == "nvfp4":
        return nvfp4.tensor_scales(amax)
    scale = hifp8.scale_of(amax, spec)
    return scale.reciprocal(), scale


def kept_of(amax: Tensor, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
    """What is kept of tensors or rows beside the codes, fp32 of amax's shape.

    amax: fp32, the largest magnitude of each, of finite ones where the format is one of SCALED. dtype: what is
    quantized.
    """
    if spec.format == "nvfp4":
        return nvfp4.kept_of(amax, spec)
    if spec.format == "hifp8":
        return hifp8.scale_of(amax, spec)
    return (
        fp8.scale_of(amax, spec, dtype).reciprocal() if spec.format == "fp8" else int8.scales_of(amax, spec, dtype)[1]
    )
