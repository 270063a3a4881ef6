"""What follows from a spec and a dtype for the kernels: one parameter that is compiled in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl

from quantctl.kernels.dispatch import interpreted
from quantctl.kernels.formats import fp8, hifp4, int8, mx
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.hadamard import is_wanted
from quantctl.kernels.formats.mx import headroom
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import SCALED, extent_of
from quantctl.spec import NONE, FormatSpec

POINTERS = {torch.bfloat16: "*i16", torch.float16: "*fp16", torch.float32: "*fp32"}
"""The kernel's pointer type by dtype: bf16 goes in and out as its bits."""
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

SCALE_DTYPES = {"fp8": torch.float32, "int8": torch.float32, "hifp4": torch.int32}
"""Of block scales, where they are no bytes."""


@dataclass(frozen=True)
class Quantizer:
    """A kernel's Q (its `parameter`), which reads Q.value.FORMAT: a compiled kernel is given a constexpr of it."""

    FORMAT: str
    """mx, nvfp4, fp8, int8, hifp8 or hifp4."""
    SCALE: str
    """The spec's scale rule, where it is not a number that is added."""
    ROUND: str
    BLOCK: int
    """Elements of a block along the axis; 0 where a tensor or a row is the block, or nothing."""
    SQUARE: bool
    EXTENT: str
    """What has a largest magnitude that all of its elements' scales are made of: none, row or tensor."""
    FINITE: bool
    """NaN and Inf have no part in it."""
    MANTISSA_BITS: int
    MIN_EXPONENT: int
    MAX_EXPONENT: int
    LARGEST: float
    RULE: int
    TARGET: float
    HEADROOM: float
    """What elements are multiplied by before rounding beside their scale."""
    BEHIND: float
    """Its inverse."""
    BITS: int
    """Of a code."""
    BF16: bool
    """Elements come and go as the bits of bf16."""
    DTYPE: str
    """What is quantized: the tensor's dtype, or fp32 behind a transform that is not rounded."""
    DTYPE_LARGEST: float
    OUT_LARGEST: float
    """Of the tensor's dtype."""
    EXACT: bool
    """The tensor's dtype holds every value."""
    HADAMARD: int
    SIGNS: str

    @property
    def value(self) -> Quantizer:
        return self

    @property
    def parameter(self) -> Quantizer | Compiled:
        """What a launch is given."""
        return self if interpreted() else Compiled(self)


@dataclass(frozen=True)
class Compiled:
    """A Quantizer whose numbers are the compiler's constants: up to Triton 3.2 it compares nothing else."""

    of: Quantizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return tl.constexpr(getattr(self.of, name))


def _element(spec: FormatSpec) -> dict[str, Any]:
    format_ = FORMATS[spec.format]
    found: dict[str, Any] = {"MANTISSA_BITS": 0, "MIN_EXPONENT": 0, "MAX_EXPONENT": 0, "LARGEST": 0.0, "RULE": 0}
    if isinstance(format_, mx.MX):
        assert spec.scale is not None
        e = format_.elements[spec.elem]
        found["RULE"] = mx.SCALE_RULES[spec.scale](e)
    elif spec.format == "fp8":
        e = fp8.ELEMENTS[spec.elem]
    else:
        return found | {"LARGEST": {"int8": int8.LARGEST, "hifp4": hifp4.LARGEST}.get(spec.format, 0.0)}
    return found | {
        "MANTISSA_BITS": e.mantissa_bits,
        "MIN_EXPONENT": e.min_exponent,
        "MAX_EXPONENT": e.max_exponent,
        "LARGEST": e.largest,
    }


@lru_cache(maxsize=256)
def quantizer(spec: FormatSpec, dtype: torch.dtype) -> Quantizer:
    """The kernels' Q of a spec for tensors of a dtype."""
    format_, block, room = FORMATS[spec.format], block_of(spec, 0), headroom(spec)
    family = "mx" if isinstance(format_, mx.MX) else spec.format
    # the rule of HiFloat's own rounding has no other name
    round_ = "away" if spec.round == "nearest" and family in ("hifp8", "hifp4") else spec.round
    own = torch.float32 if spec.hadamard_out == "fp32" else dtype
    return Quantizer(
        FORMAT=family,
        SCALE=str(spec.scale),
        ROUND=str(round_),
        BLOCK=format_.block if spec.block is None else block.along,
        SQUARE=block.across > 1,
        EXTENT=extent_of(spec),
        FINITE=spec.format in SCALED,
        **_element(spec),
        TARGET=float(spec.target or 0),
        HEADROOM=room,
        BEHIND=1 / room,
        BITS=format_.bits(spec),
        BF16=dtype == torch.bfloat16,
        DTYPE=NAMES[own],
        DTYPE_LARGEST=torch.finfo(own).max,
        OUT_LARGEST=torch.finfo(dtype).max,
        # rounding to fewer bits under a power of two stays within the dtype
        EXACT=own == dtype
        and room == 1.0
        and (family == "mx" or (spec.scale in (NONE, "tensor") and family == "hifp8")),
        HADAMARD=int(spec.transform[0]) if is_wanted(spec) else 0,
        SIGNS=spec.transform[1],
    )


_NOTHING: dict[str, Any] = {
    **{"FORMAT": NONE, "SCALE": NONE, "ROUND": "nearest", "BLOCK": 0, "SQUARE": False, "EXTENT": NONE, "FINITE": False},
    **{"MANTISSA_BITS": 0, "MIN_EXPONENT": 0, "MAX_EXPONENT": 0, "LARGEST": 0.0, "RULE": 0, "TARGET": 0.0},
    **{"HEADROOM": 1.0, "BEHIND": 1.0, "BITS": 0, "BF16": False, "DTYPE": "fp32", "DTYPE_LARGEST": 0.0},
    **{"OUT_LARGEST": 0.0, "EXACT": True, "HADAMARD": 0, "SIGNS": NONE},
}
NOTHING = Quantizer(**_NOTHING)
"""The Q of what is not quantized."""
