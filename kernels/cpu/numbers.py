"""What each spec is to the kernels: named tuples of numbers, each kind with an implementation of blocks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from quantctl.kernels.cpu import four_over_six, hifp4, hifp8, mx, nvfp4, scaled
from quantctl.kernels.cpu.words import ALL, FINITE
from quantctl.kernels.formats import four_over_six as four_over_six_format
from quantctl.kernels.formats import fp8 as fp8_format
from quantctl.kernels.formats import mx as mx_format
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.spec import FormatSpec

SMALLEST, LARGEST = (int(bits) for bits in (mx.FIRST_PLAIN, mx.LAST_PLAIN))
"""fp32 bits. Where a tensor's largest magnitude lies between them, or is 0, no operand of the arithmetic is subnormal,
and none overflows."""


def amax_wanted(spec: FormatSpec) -> str | None:
    """Of which elements of the whole tensor, or of each line, the largest magnitude has to be known first, if it has
    to."""
    if has_tensor_scale(spec):
        return FINITE
    return ALL if spec.block == "tensor" else None


class Known(NamedTuple):
    """What numbers are made of beside the spec."""

    dtype: torch.dtype
    block: int
    """Elements of a block along the axis."""
    by_rows: bool
    """Whether the axis is that of the matrix' rows."""
    amax: Any
    """fp32: of the tensor, or of each line [lines]; None where it plays no role."""

    @property
    def largest(self) -> float:
        """The dtype's largest number."""
        return float(torch.finfo(self.dtype).max)


def _mx(spec: FormatSpec, known: Known) -> Any:
    format_ = FORMATS[spec.format]
    assert isinstance(format_, mx_format.MX)
    assert spec.scale is not None
    element, room = format_.elements[spec.elem], mx_format.headroom(spec)
    if room != 1.0:
        return scaled.mx_room(element, spec.scale, room, known.largest)
    return mx.numbers(element, spec.scale, known.largest)


def _nvfp4(spec: FormatSpec, known: Known) -> Any:
    if spec.scale in four_over_six_format.ERRORS:
        return four_over_six.numbers(known.amax, spec.scale, known.largest, by_rows=known.by_rows)
    rule = nvfp4.multiplied if spec.scale == "multiply" else nvfp4.divided
    return rule(known.amax, mx_format.headroom(spec), known.largest)


def _fp8(spec: FormatSpec, known: Known) -> Any:
    element, powers = fp8_format.ELEMENTS[spec.elem], spec.scale == "pow2"
    if known.amax is not None:
        return scaled.whole(known.amax, element, known.largest, powers=powers)
    return scaled.fp8(element, known.largest, known.block, powers=powers)


def _int8(spec: FormatSpec, known: Known) -> Any:
    if known.amax is not None:
        return scaled.int8_tensor(known.amax, spec, known.dtype)
    return scaled.int8(known.dtype, known.block, in_squares=block_of(spec).across > 1)


def _hifp8(spec: FormatSpec, known: Known) -> Any:
    if spec.scale == "fp32":
        return hifp8.divided(known.amax, spec.target, known.largest)
    return hifp8.numbers(hifp8.exponent_of(known.amax) if known.amax else 0, known.largest)


def _hifp4(spec: FormatSpec, known: Known) -> Any:
    return hifp4.numbers(known.largest)


_BY_FORMAT: dict[str, Callable[[FormatSpec, Known], Any]] = {
    **dict.fromkeys(("mxfp8", "mxfp6", "mxfp4"), _mx),
    "nvfp4": _nvfp4,
    "fp8": _fp8,
    "int8": _int8,
    "hifp8": _hifp8,
    "hifp4": _hifp4,
}


def numbers_of(
    spec: FormatSpec, dtype: torch.dtype, block: int, by_rows: bool, bits: int | np.ndarray | None = None
) -> Any:
    """bits: of the fp32 numbers that are wanted, one or int32 [lines]. None if kernels have none for such a tensor."""
    if bits is None:
        return _BY_FORMAT[spec.format](spec, Known(dtype, block, by_rows, None))
    if isinstance(bits, int):
        if bits and not SMALLEST <= bits < LARGEST:
            return None
        return _BY_FORMAT[spec.format](spec, Known(dtype, block, by_rows, np.int32(bits).view(np.float32)))
    if np.any((bits != 0) & ((bits < SMALLEST) | (bits >= LARGEST))):
        return None
    return _BY_FORMAT[spec.format](spec, Known(dtype, block, by_rows, bits.view(np.float32)))
