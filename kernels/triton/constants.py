"""What follows from a spec and a dtype for the kernels: the parameters that are compiled in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from quantctl.kernels.formats import fp8, mx, nvfp4
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.mx import headroom
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import needs_amax
from quantctl.spec import FormatSpec

POINTERS = {torch.bfloat16: "*i16", torch.float16: "*fp16", torch.float32: "*fp32"}
"""The kernel's pointer type by dtype: bf16 goes in and out as its bits."""


@lru_cache(maxsize=64)
def constants(spec: FormatSpec, dtype: torch.dtype) -> dict[str, Any]:
    """The kernel's parameters that follow from the spec and the dtype."""
    format_ = FORMATS[spec.format]
    element: dict[str, Any] = dict.fromkeys(("MANTISSA_BITS", "MIN_EXPONENT", "MAX_EXPONENT", "LARGEST", "RULE"), 0)
    family, block, round_ = spec.format, 1, spec.round
    if isinstance(format_, mx.MX):
        e = format_.elements[spec.elem]
        assert spec.scale is not None
        family, block = "mx", mx.BLOCK
        element = {
            "MANTISSA_BITS": e.mantissa_bits,
            "MIN_EXPONENT": e.min_exponent,
            "MAX_EXPONENT": e.max_exponent,
            "LARGEST": e.largest,
            "RULE": mx.SCALE_RULES[spec.scale](e),
        }
    elif family == "nvfp4":
        block = nvfp4.BLOCK
        family = "nvfp4_multiply" if spec.scale == "multiply" else family
    elif family == "fp8":
        e = fp8.ELEMENTS[spec.elem]
        element |= {"MANTISSA_BITS": e.mantissa_bits, "MIN_EXPONENT": e.min_exponent, "LARGEST": e.largest}
        family, block = ("fp8_tensor", 1) if spec.block == "tensor" else ("fp8", block_of(spec).along)
    elif round_ == "nearest":
        round_ = "away"  # HiFloat8's own rule
    return element | {
        "FORMAT": family,
        "BLOCK": block,
        "ROUND": round_,
        "SCALED": needs_amax(spec),
        "DTYPE_LARGEST": torch.finfo(dtype).max,
        "BF16": dtype == torch.bfloat16,
        "EXACT": family in ("mx", "hifp8")
        and headroom(spec) == 1.0,  # rounding to fewer bits under a power of two stays within the dtype
    }


def options_of(spec: FormatSpec) -> dict[str, Any]:
    """Those of the kernel's parameters that no other kernel has."""
    room, block = headroom(spec), block_of(spec, 1)
    return {
        "SQUARE": block.across > 1,
        "POWERS": spec.scale == "pow2",
        "HEADROOM": room,
        "BEHIND": 1 / room,
    }
