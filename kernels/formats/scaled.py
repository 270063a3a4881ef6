"""Formats whose blocks, rows or tensors have one fp32 scale each and nothing else: what FP8 and INT8 share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_amax, block_of, join, split, through
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import lower, lowering
from quantctl.spec import FormatSpec


class Scaled(ABC):
    """Values are element * factor, one factor a block; elements have 8 bits."""

    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = 0
    scale_bytes: ClassVar[int] = 4

    @abstractmethod
    def quantized(
        self, values: Tensor, amax: Tensor, spec: FormatSpec, noise: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Elements, and what they are multiplied by, of fp32 values. amax: the largest magnitudes of their blocks,
        which broadcast. dtype: the tensor's."""

    @abstractmethod
    def codes_of(self, elements: Tensor, spec: FormatSpec) -> Tensor:
        """uint8, of finite elements."""

    @abstractmethod
    def elements_of(self, codes: Tensor, spec: FormatSpec) -> Tensor:
        """fp32, the elements that codes stand for."""

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` through the format in the spec's blocks along `axis` (>= 0). Same shape and dtype.

        Scales are those of the tensor given: under tensor parallelism, of the rank's shard.
        """
        if not x.numel():
            return torch.empty_like(x)

        def blocks(part: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
            values = part.float()
            return dequantize(*self.quantized(values, block_amax(values, axis), spec, noise, x.dtype), x.dtype)

        return through(blocks, block_of(spec), x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return 8

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        return codes.block_scales

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        block = block_of(spec)
        drawn = None if noise is None else split(noise, block)
        values = split(x.float(), block)
        elements, factor = self.quantized(values, block_amax(values, -1), spec, drawn, x.dtype)
        codes = self.codes_of(elements.where(factor.isfinite(), 0.0), spec)
        return Codes(join(codes, block, x.shape), factor.squeeze(-1), None)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        block, values = block_of(spec), self.elements_of(codes.elements, spec)
        parts = dequantize(split(values, block).contiguous(), codes.block_scales.unsqueeze(-1), dtype)
        return join(parts, block, values.shape)


def dequantize(elements: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """elements * factor in `dtype`; `elements` is overwritten."""
    by, factor = lowering(factor)
    return lower(elements.mul_(factor), by, dtype)
