"""HiFloat4 (`hifp4`): blocks of 64 under a scale of 8 bits and two levels of exponents of one bit.

"HiFloat4", arXiv 2604.08826, as its authors' code has it (github.com/global-computing-consortium/HiFloat4):

    s     = E6M2(bf16(amax(64) * 73 / 512))      both half to even, within 2^-48 .. 49152
    r     = bf16(1 / s)
    l2    = 1 where amax(8) * r >= 4             one bit for each eight neighbours
    l3    = 1 where amax(4) * r / 2^l2 >= 2      one bit for each four
    q     = +-k / 4, k the integer of |x| * r * 4 / 2^(l2 + l3), half away from zero, at most 7
    value = q * 2^(l2 + l3) * s

A tail shorter than 64 is a short block, as if zeros stood behind it, where their code refuses such sizes or fills them
up. A block with NaN or Inf becomes NaN. How codes lie in memory is not settled: here a block has one 32-bit word, E6M2
in its lowest byte, then the eight bits of level 2 and the sixteen of level 3, those of the first elements lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_amax, block_of, join, split, through
from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import lower, round_integers_
from quantctl.kernels.tables import table
from quantctl.spec import FormatSpec

BLOCK, EIGHT, FOUR = 64, 8, 4
E6M2 = Element(mantissa_bits=2, min_exponent=-48, max_exponent=15, largest=49152.0)
SMALLEST_SCALE = 2.0**-48
FACTOR = 73 / 512
LARGEST = 7.0
NAN_BYTE = 0xFF


@table
def _places(size: int) -> Tensor:
    """The shift of each of `size` bits, int32."""
    return torch.arange(size, dtype=torch.int32, device="cpu")


def _shared(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of fp32 blocks [..., 64]: s and r [..., 1], l2 [..., 8] and l3 [..., 16] as fp32 0 or 1."""
    fours = block_amax(values.unflatten(-1, (-1, FOUR)), -1).squeeze(-1)
    eights = block_amax(fours.unflatten(-1, (-1, 2)), -1).squeeze(-1)
    amax = block_amax(eights, -1)
    wanted = (amax * FACTOR).to(torch.bfloat16).float()
    scale = E6M2.round_(wanted, "nearest", None).clamp_min_(SMALLEST_SCALE)
    scale = scale.masked_fill(~amax.isfinite(), torch.nan)
    inverse = scale.reciprocal().to(torch.bfloat16).float()
    second = (eights * inverse >= 4).float()
    third = (fours * inverse * torch.exp2(-_each(second, 2)) >= 2).float()
    return scale, inverse, second, third


def _each(bits: Tensor, count: int) -> Tensor:
    return bits.repeat_interleave(count, -1)


def _exponents(second: Tensor, third: Tensor) -> Tensor:
    """2^(l2 + l3) of each element, fp32 [..., 64]."""
    return torch.where(_each(second, EIGHT) > 0, 2.0, 1.0) * torch.where(_each(third, FOUR) > 0, 2.0, 1.0)


@dataclass(frozen=True)
class HiFloat4:
    has_blocks: ClassVar[bool] = True
    block: ClassVar[int] = BLOCK
    scale_bytes: ClassVar[int] = 4

    def _quantize(
        self, values: Tensor, spec: FormatSpec, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """k with its sign, s, l2 and l3 of fp32 blocks [..., 64]."""
        assert spec.round is not None
        scale, inverse, second, third = _shared(values)
        how = "away" if spec.round == "nearest" else spec.round
        scaled = values * inverse * (4.0 / _exponents(second, third))
        return round_integers_(scaled, how, noise).clamp_(-LARGEST, LARGEST), scale, second, third

    def quantize_dequantize(self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
        """`x` through HiFloat4 in blocks of 64 along `axis` (>= 0). Same shape and dtype."""

        def blocks(part: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
            length = part.shape[axis]
            full, full_noise = (
                None if t is None else torch.nn.functional.pad(t.movedim(axis, -1), (0, BLOCK - length))
                for t in (part, noise)
            )
            assert full is not None
            values, scale, second, third = self._quantize(full.float(), spec, full_noise)
            return _dequantize(values, scale, second, third, x.dtype)[..., :length].movedim(-1, axis)

        return through(blocks, block_of(spec, BLOCK), x, spec, axis, noise)

    def bits(self, spec: FormatSpec) -> int:
        return 4

    def largest_code(self, spec: FormatSpec) -> int:
        return int(LARGEST)

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        assert codes.block_scales is not None
        return _scale_of(codes.block_scales) * 0.25

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
        block = block_of(spec, BLOCK)
        values, scale, second, third = self._quantize(
            split(x.float(), block), spec, None if noise is None else split(noise, block)
        )
        finite = scale.isfinite()
        values = values.where(finite, 0.0)
        codes = values.abs().to(torch.uint8) | (values.signbit().to(torch.uint8) << 3)
        byte = _scale_codes(scale.where(finite, 1.0)).masked_fill(~finite, NAN_BYTE).squeeze(-1)
        places = (1 << _places(values, 16)).to(torch.int32)
        bits = [(flags.int() * places[: flags.shape[-1]]).sum(-1, dtype=torch.int32) for flags in (second, third)]
        return Codes(join(codes, block, x.shape), byte | bits[0] << 8 | bits[1] << 16, None)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        assert codes.block_scales is not None
        block, word = block_of(spec, BLOCK), codes.block_scales.unsqueeze(-1)
        k = (codes.elements & 7).float()
        values = torch.where(codes.elements > 7, -k, k)
        parts = _dequantize(split(values, block).contiguous(), _scale_of(word), *_levels(word), dtype)
        return join(parts, block, values.shape)


def _scale_codes(scale: Tensor) -> Tensor:
    """int32 bytes of normal E6M2 numbers: exponent plus 48, two mantissa bits."""
    return (scale.view(torch.int32) >> 21) - ((127 + E6M2.min_exponent) << 2)


def _scale_of(word: Tensor) -> Tensor:
    byte = word & 0xFF
    return (
        ((byte + ((127 + E6M2.min_exponent) << 2)) << 21).view(torch.float32).masked_fill(byte == NAN_BYTE, torch.nan)
    )


def factors_of_fours(codes: Codes) -> Tensor:
    """What the k of four neighbours are multiplied by, fp32 [..., 16 a block]: 2^(l2 + l3) * s / 4."""
    assert codes.block_scales is not None
    word = codes.block_scales.unsqueeze(-1)
    return (_exponents(*_levels(word))[..., ::FOUR] * (_scale_of(word) * 0.25)).flatten(-2)


def _levels(word: Tensor) -> tuple[Tensor, Tensor]:
    """l2 [..., 8] and l3 [..., 16] of blocks' words [..., 1], fp32 0 or 1."""
    second, third = (((word >> first) >> _places(word, count) & 1).float() for first, count in ((8, 8), (16, 16)))
    return second, third


def _dequantize(values: Tensor, scale: Tensor, second: Tensor, third: Tensor, dtype: torch.dtype) -> Tensor:
    """k / 4 * 2^(l2 + l3) * s; `values` is overwritten."""
    product = values.mul_(_exponents(second, third) * (scale * 0.25))
    return lower(product, torch.zeros((), dtype=torch.int32, device=product.device), dtype)


FORMAT = HiFloat4()
