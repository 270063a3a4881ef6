"""HiFloat8 (`hifp8`): "Ascend HiFloat8 Format for Deep Learning", arXiv 2409.16626.

Sign, a prefix-coded dot field, a sign-magnitude exponent and a mantissa share eight bits, so precision tapers:

| |exponent| | 0 .. 3 | 4 .. 7 | 8 .. 15 | denormal, -16 .. -22 |
| mantissa bits | 3 | 2 | 1 | 0: powers of two |

253 finite values up to 2^15, one zero (-0 becomes 0), NaN, Inf. Rounding: half away from zero;
|x| >= 1.25 * 2^15 becomes Inf, |x| < 2^-23 becomes 0. Stochastic rounding chooses between the two finite
neighbours; above 2^15 there is no upper one, and the rule for nearest decides.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantctl.kernels.formats.elements import look_up
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS, binade, finite_amax, lower, lowering, round_integers_
from quantctl.kernels.tables import table
from quantctl.spec import FormatSpec

# magnitude of the exponent up to which a number of this format has so many mantissa bits
MANTISSA_BITS_BY_EXPONENT = ((3, 3), (7, 2), (15, 1))
MIN_EXPONENT = -22
MAX_EXPONENT = 15
LARGEST = 2.0**MAX_EXPONENT
OVERFLOW = 1.25 * 2.0**15

TENSOR_TARGET = 3
"""scale=tensor moves the largest magnitude into [2^3, 2^4), the top binade that has three mantissa bits.

The error energy is the sum of x^2 * r(exponent of x), where r, the relative error, quadruples from each precision
band to the next. A lower target shrinks the three-bit band below amax (seven binades at target 3, less below:
values near 2^-3 leave it); a higher one puts amax itself, which has the most energy, into the two-bit band. At 3
the top seven binades, all but at most 2^-14 of amax^2 an element, have full precision, the next four have two
bits, and the smallest denormal lies 25 binades below amax. Nothing can overflow.
"""


def _step_exponent(exponent: int) -> int:
    """log2 of the distance between neighbours in the binade of 2^exponent."""
    for magnitude, bits in MANTISSA_BITS_BY_EXPONENT:
        if abs(exponent) <= magnitude:
            return exponent - bits
    # above: as in the top binade, the values become Inf; below: powers of two, then multiples of the smallest
    return exponent - 1 if exponent > 0 else max(exponent, MIN_EXPONENT)


@table
def _step_table() -> Tensor:
    """The step by biased fp32 exponent, [256]; Inf and NaN (255) take the step of the binade below."""
    exponents = [min(field, 2 * BIAS) - BIAS for field in range(256)]
    return torch.tensor([2.0 ** _step_exponent(e) for e in exponents], dtype=torch.float32, device="cpu")


def _round(x: Tensor, how: str, noise: Tensor | None) -> Tensor:
    """fp32 `x` rounded to HiFloat8 values."""
    exponent_field = (x.view(torch.int32) >> MANTISSA_BITS).bitwise_and_(0xFF)
    step = _step_table(x).index_select(0, exponent_field.flatten()).view(x.shape)
    rounded = round_integers_(x / step, how, noise).mul_(step).clamp_(-LARGEST, LARGEST)
    return torch.where(x.abs() >= OVERFLOW, x * torch.inf, rounded.add_(0.0))  # + 0.0 makes -0 a 0


def tensor_scale(amax: Tensor) -> Tensor:
    """The power of two, fp32 [], that a tensor is divided by: amax / scale in [2^TENSOR_TARGET, 2^(TENSOR_TARGET+1)).

    amax: its largest finite magnitude, fp32 []. NaN and Inf take no part; 1 if nothing but zeros is left.
    """
    # clamped so that the scale is a normal number
    scale = (binade(amax) * 2.0**-TENSOR_TARGET).clamp_min(torch.finfo(torch.float32).tiny)
    return scale.masked_fill(amax == 0, 1.0)


def scale_of(amax: Tensor, spec: FormatSpec) -> Tensor:
    """What a tensor of that largest finite magnitude is divided by, fp32.

    scale=fp32: amax / target, so that amax becomes 15 (inputs and weights) or 224 (gradients), as MindSpeed has it
    (te/pytorch/fp8/constants.py); 1 for 0.
    """
    if spec.scale == "tensor":
        return tensor_scale(amax)
    assert spec.target is not None
    scale = amax / torch.full_like(amax, float(spec.target))
    return scale.masked_fill(scale == 0, 1.0)


def _magnitudes() -> dict[int, float]:
    """Code -> value >= 0 without the sign bit, finite ones: the dot field's prefix code decides the widths."""
    values = {0: 0.0} | {m: 2.0 ** (m - 23) for m in range(1, 8)}
    # (prefix, its width, exponent bits): the exponent's magnitude has a hidden leading one where it has bits
    for prefix, width, exponent_bits in ((0b0001, 4, 0), (0b001, 3, 1), (0b01, 2, 2), (0b10, 2, 3), (0b11, 2, 4)):
        mantissa_bits = 7 - width - exponent_bits
        for field in range(1 << exponent_bits):
            hidden = 1 << (exponent_bits - 1) if exponent_bits else 0
            # sign-magnitude: the field's top bit is the exponent's sign, the rest follows the hidden one
            negative, rest = divmod(field, hidden) if exponent_bits else (0, 0)
            exponent = -(hidden + rest) if negative else hidden + rest
            for mantissa in range(1 << mantissa_bits):
                code = (((prefix << exponent_bits) | field) << mantissa_bits) | mantissa
                values[code] = 2.0**exponent * (1 + mantissa / (1 << mantissa_bits))
    return values


CODE_INFINITY, CODE_NAN, CODE_SIGN = 0x6F, 0x80, 0x80
MAGNITUDES = _magnitudes() | {CODE_INFINITY: float("inf")}
"""Value of each code below 0x80."""


CODES_SHIFT = MANTISSA_BITS - MANTISSA_BITS_BY_EXPONENT[0][1]
CODES_FIRST = ((BIAS + MIN_EXPONENT) << (MANTISSA_BITS - CODES_SHIFT)) - 1
CODES_LAST = ((BIAS + MAX_EXPONENT) << (MANTISSA_BITS - CODES_SHIFT)) - CODES_FIRST + 1
"""Index of the code of Inf in codes_table: behind that of 2^15."""


@table
def codes_table() -> Tensor:
    """The code, uint8, of a magnitude by (its fp32 bits >> CODES_SHIFT) - CODES_FIRST; zero comes first, Inf last."""
    finite = {value: code for code, value in MAGNITUDES.items() if 0 < value <= LARGEST}
    by_index = {_index(value): code for value, code in finite.items()} | {CODES_LAST: CODE_INFINITY}
    codes = [by_index.get(index, 0) for index in range(CODES_LAST + 1)]
    return torch.tensor(codes, dtype=torch.uint8, device="cpu")


def _index(magnitude: float) -> int:
    (bits,) = struct.unpack("<i", struct.pack("<f", magnitude))
    return int(bits >> CODES_SHIFT) - CODES_FIRST


@table
def values_table() -> Tensor:
    """The value, bf16, of every code, [256]."""
    positive = [MAGNITUDES[code] for code in range(CODE_SIGN)]
    values = [*positive, torch.nan, *(-value for value in positive[1:])]
    return torch.tensor(values, dtype=torch.bfloat16, device="cpu")


def _codes(values: Tensor) -> Tensor:
    """The codes, uint8, of HiFloat8 values. There is one zero; 0x80 is NaN."""
    index = ((values.abs().view(torch.int32) >> CODES_SHIFT) - CODES_FIRST).clamp_(0, CODES_LAST)
    signed = look_up(codes_table(values), index).bitwise_or_((values < 0).to(torch.uint8).mul_(CODE_SIGN))
    return signed.masked_fill_(values.isnan(), CODE_NAN)


def _values(codes: Tensor) -> Tensor:
    """The values, fp32, of uint8 codes."""
    return look_up(values_table(codes), codes).float()


def _dequantize(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """values * scale in `dtype`; only what is infinite in HiFloat8 is so in the result."""
    by, factor = lowering(scale)
    return torch.where(values.isfinite(), lower(values * factor, by, dtype), values.to(dtype))


@dataclass(frozen=True)
class HiFloat8:
    """Blocks play no role, so `axis` is unused."""

    has_blocks: ClassVar[bool] = False
    block: ClassVar[int] = 0
    scale_bytes: ClassVar[int] = 0

    def _quantize(
        self, x: Tensor, spec: FormatSpec, noise: Tensor | None, amax: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """HiFloat8 values, fp32, and the tensor scale (None without one)."""
        assert spec.round is not None
        how = "away" if spec.round == "nearest" else spec.round
        values = x.float()
        if spec.scale == "none":
            return _round(values, how, noise), None
        scale = scale_of(finite_amax(values) if amax is None else amax, spec)
        return _round(values / scale, how, noise), scale

    def quantize_dequantize(
        self, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None, amax: Tensor | None = None
    ) -> Tensor:
        """`x` through HiFloat8; same shape and dtype.

        A scale is that of the tensor given (under tensor parallelism, of the rank's shard), or
        follows from `amax`, the largest finite magnitudes of its parts, fp32 that broadcasts against x. Inf and NaN
        stay what they are, and a finite value that rounds above the dtype's largest number becomes that number.
        """
        values, scale = self._quantize(x, spec, noise, amax)
        return values.to(x.dtype) if scale is None else _dequantize(values, scale, x.dtype)

    def bits(self, spec: FormatSpec) -> int:
        return 8

    def largest_code(self, spec: FormatSpec) -> int:
        return CODE_INFINITY - 1

    def factors(self, codes: Codes, spec: FormatSpec) -> Tensor | None:
        return codes.tensor_scale

    def encode(self, x: Tensor, spec: FormatSpec, noise: Tensor | None, amax: Tensor | None = None) -> Codes:
        """amax: as in quantize_dequantize; the codes' tensor scale has its shape."""
        values, scale = self._quantize(x, spec, noise, amax)
        return Codes(_codes(values), None, scale)

    def decode(self, codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor:
        values = _values(codes.elements)
        return values.to(dtype) if codes.tensor_scale is None else _dequantize(values, codes.tensor_scale, dtype)


FORMAT = HiFloat8()
