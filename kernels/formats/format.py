"""What a number format offers to the rest: values, and the codes that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from quantctl.spec import FormatSpec


@dataclass(frozen=True)
class Codes:
    """A tensor in codes, with the quantized axis last: everything that is needed to get the values back."""

    elements: Tensor
    """uint8 [..., n], one code each."""
    block_scales: Tensor | None
    """uint8 or fp32 [..., blocks] as blocks.split has them, or None where the format has no blocks."""
    tensor_scale: Tensor | None
    """fp32 [], what the whole tensor is multiplied by, or None; or of a shape that fits the blocks, for its parts."""


class Format(Protocol):
    """A format's module has one of these under the name FORMAT."""

    has_blocks: ClassVar[bool]
    """The quantized axis plays a role."""

    block: ClassVar[int]
    """Elements of a block scale along the axis, where the spec says nothing else; 0 where there is none."""

    scale_bytes: ClassVar[int]
    """Bytes of a block scale; 0 where there is none."""

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` (bf16, fp16 or fp32) through the format in blocks along `axis` (>= 0); same shape and dtype."""

    def bits(self, spec: FormatSpec) -> int:
        """Width of an element's code."""

    def largest_code(self, spec: FormatSpec) -> int:
        """The code of the largest finite number: whatever the scales, it decodes to the largest value."""

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        """fp32, what the elements of each block, or of the tensor, are multiplied by; None where there is no scale."""

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        """Codes of `x` [..., n] in blocks along its last axis."""

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        """What quantize_dequantize gives for the tensor that was encoded, [..., n]."""
