"""`encode` and `decode`: a tensor as packed element codes and scales, and back.

What a run computes with is quantize_dequantize; this is the same in the bits that hardware would store, and
decode(encode(x)) equals quantize_dequantize(x) in every bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.dispatch import CPU, family_of
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.hadamard import transformed, without
from quantctl.kernels.formats.quantize import FORMATS, axes_of, draw_for, noise_for, operand
from quantctl.spec import FormatSpec, parse

# bits of a code -> (codes, bytes) of a group: the fewest codes that fill whole bytes
GROUPS = {8: (1, 1), 6: (4, 3), 4: (2, 1)}


@dataclass(frozen=True)
class Encoded:
    """A tensor in a format. The quantized axis is the last one of `elements` and `block_scales`."""

    elements: Tensor
    """uint8 [..., bytes]: the first code in the lowest bits, two 4-bit codes a byte, four 6-bit codes in 3 bytes."""
    block_scales: Tensor | None
    """[..., blocks] as blocks.split has them: uint8 E8M0 (MX) or E4M3 (NVFP4) bytes, fp32 factors (FP8); None for
    HiFloat8."""
    tensor_scale: Tensor | None
    """fp32 []: the factor of the whole tensor (NVFP4 with a scale rule but divide: its amax), [..., 1] of rows; None
    where the format or the spec has none."""
    spec: FormatSpec
    shape: torch.Size
    axis: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of elements and scales."""
        parts = (self.elements, self.block_scales, self.tensor_scale)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [..., n] as uint8 [..., bytes]; zeros fill up the last group."""
    count, width = GROUPS[bits]
    if count == 1:
        return codes
    groups = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % count)).unflatten(-1, (-1, count))
    if width == 1:
        return groups[..., 0] | groups[..., 1] << bits
    words = sum((groups[..., i].int() << (bits * i) for i in range(1, count)), groups[..., 0].int())
    return torch.stack([(words >> (8 * i)).bitwise_and_(0xFF).to(torch.uint8) for i in range(width)], -1).flatten(-2)


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """The inverse of `pack`: uint8 codes [..., length]."""
    count, width = GROUPS[bits]
    if count == 1:
        return packed
    words, mask = packed, (1 << bits) - 1
    if width > 1:
        groups = packed.unflatten(-1, (-1, width)).int()
        words = sum((groups[..., i] << (8 * i) for i in range(1, width)), groups[..., 0])
    codes = torch.stack([(words >> (bits * i) & mask).to(torch.uint8) for i in range(count)], -1)
    return codes.flatten(-2)[..., :length]


def encode(x: Tensor, spec: FormatSpec | str, axis: int = -1, *, rng: philox.Draw | None = None) -> Encoded:
    """`x` (bf16, fp16 or fp32, any strides) in codes, in blocks along `axis`; arguments as in quantize_dequantize.

    What has a Hadamard transform is encoded behind it, and the spec of the result is without one.

    Raises QuantctlError for other tensors and axes, for unknown specs and for `none`, which has no codes.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    x = operand(x, spec)
    (axis,) = axes_of(x, (axis,), spec)
    draw = draw_for(spec, rng)
    shape, dtype = x.shape, x.dtype
    x, spec = transformed(x, spec, axis, draw), without(spec)
    noise = noise_for(x, spec, draw)
    rows, row_noise = (None if t is None else t.movedim(axis, -1).contiguous() for t in (x, noise))
    assert rows is not None
    codes = encode_rows(rows, spec, row_noise)
    elements = pack(codes.elements, FORMATS[spec.format].bits(spec))
    return Encoded(elements, codes.block_scales, codes.tensor_scale, spec, shape, axis, dtype)


def decode(encoded: Encoded) -> Tensor:
    """The values, contiguous, in the shape and dtype of the tensor that was encoded."""
    axis = encoded.axis
    elements = unpack(encoded.elements, FORMATS[encoded.spec.format].bits(encoded.spec), encoded.shape[axis])
    codes = Codes(elements, encoded.block_scales, encoded.tensor_scale)
    return decode_rows(codes, encoded.spec, encoded.dtype).movedim(-1, axis).contiguous()


def encode_rows(rows: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes:
    """Codes of contiguous rows [..., n] in blocks along their last axis, by whoever computes them. noise: fp32 of their
    shape, that of stochastic rounding."""
    if not torch.compiler.is_compiling() and family_of(rows, spec) == CPU:
        from quantctl.kernels.cpu import codes as cpu_codes

        if (found := cpu_codes.encode(rows, spec, noise)) is not None:
            return found
    return FORMATS[spec.format].encode(rows, spec, noise)


def decode_rows(codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
    """The values of codes [..., n], by whoever computes them."""
    if not torch.compiler.is_compiling() and family_of(codes.elements, spec) == CPU:
        from quantctl.kernels.cpu import codes as cpu_codes

        if (found := cpu_codes.decode(codes, spec, dtype)) is not None:
            return found
    return FORMATS[spec.format].decode(codes, spec, dtype)
