"""What each spec is to the kernels: named tuples of numbers, each kind with an implementation of blocks.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from quantctl.kernels.cpu import hifp8, mx, nvfp4, scaled
from quantctl.kernels.cpu.words import ALL, FINITE
from quantctl.kernels.formats import fp8 as fp8_format
from quantctl.kernels.formats import mx as mx_format
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.spec import FormatSpec

SMALLEST, LARGEST = (int(bits) for bits in (mx.FIRST_PLAIN, mx.LAST_PLAIN))
"""fp32 bits. Where a tensor's largest magnitude lies between them, or is 0, no operand of the arithmetic is subnormal,
and none overflows."""


def amax_wanted(spec: FormatSpec) -> str | None:
    """Of which elements of the whole tensor the largest magnitude has to be known first, if it has to."""
    if has_tensor_scale(spec):
        return FINITE
    return ALL if spec.block == "tensor" else None


def numbers_of(spec: FormatSpec, dtype: torch.dtype, block: int, bits: int | None = None) -> Any:
    """block: elements of a block along the axis. bits: of the fp32 number that is wanted. None if there are no kernels
    for such a tensor."""
    if bits and not SMALLEST <= bits < LARGEST:
        return None
    amax = np.int32(bits or 0).view(np.float32)
    largest = torch.finfo(dtype).max
    room = mx_format.headroom(spec)
    if spec.format == "nvfp4":
        return (nvfp4.multiplied if spec.scale == "multiply" else nvfp4.divided)(amax, room, largest)
    if spec.format == "fp8":
        element = fp8_format.ELEMENTS[spec.elem]
        powers = spec.scale == "pow2"
        if bits is not None:
            return scaled.whole(amax, element, largest, powers=powers)
        return scaled.fp8(element, largest, block, powers=powers)
    format_ = FORMATS[spec.format]
    if isinstance(format_, mx_format.MX):
        assert spec.scale is not None
        element = format_.elements[spec.elem]
        if room != 1.0:
            return scaled.mx_room(element, spec.scale, room, largest)
        return mx.numbers(element, spec.scale, largest)
    return hifp8.numbers(0 if not bits else hifp8.exponent_of(amax), largest)
