"""What each spec is to the kernels: named tuples of numbers, each kind with an implementation of blocks.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels.cpu import hifp8, mx, nvfp4
from quantctl.kernels.formats import mx as mx_format
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import factors, has_tensor_scale
from quantctl.spec import FormatSpec

SMALLEST, LARGEST = (int(bits) for bits in (mx.FIRST_PLAIN, mx.LAST_PLAIN))
"""fp32 bits. Where a tensor's largest magnitude lies between them, or is 0, no operand of the arithmetic is subnormal,
and none overflows."""


def numbers_of(spec: FormatSpec, dtype: torch.dtype, amax: Tensor | None = None) -> Any:
    """amax: fp32 [], the largest finite magnitude of the tensor, where there is a scale of it. None if there are no
    kernels for such a tensor."""
    largest = torch.finfo(dtype).max
    encode = decode = 1.0
    if has_tensor_scale(spec):
        assert amax is not None
        bits = amax.view(torch.int32).item()  # a number that is subnormal might be read as 0
        if bits and not SMALLEST <= bits < LARGEST:
            return None
        encode, decode = (factor.item() for factor in factors(amax, spec))
    format_ = FORMATS[spec.format]
    if isinstance(format_, mx_format.MX):
        assert spec.scale is not None
        return mx.numbers(format_.elements[spec.elem], spec.scale, largest)
    if spec.format == "nvfp4":
        return nvfp4.NVFP4Numbers(*map(np.float32, (encode, decode, largest)))
    return hifp8.numbers(decode, largest)
