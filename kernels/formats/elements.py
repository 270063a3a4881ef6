"""Small floating-point elements: sign, exponent, mantissa, subnormals, saturating; their rounding and their codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS, binade, round_integers_
from quantctl.kernels.tables import table


@dataclass(frozen=True)
class Element:
    """An element type: value = +-2^exponent * 1.mantissa, below the smallest exponent +-2^min_exponent * 0.mantissa.

    A code is sign, biased exponent and mantissa from the top bit down, as in IEEE 754.
    """

    mantissa_bits: int
    min_exponent: int
    """Exponent of the smallest normal number; subnormals have its step."""
    max_exponent: int
    """emax of MX, section 6.3: exponent of the largest normal number."""
    largest: float
    infinity: bool = False
    """The code after the largest number's is Inf. Whatever else lies above the largest number is NaN."""

    @property
    def largest_mantissa(self) -> int:
        """Mantissa of the largest number, in the 23 bits of fp32."""
        return int((self.largest / 2.0**self.max_exponent - 1) * 2**MANTISSA_BITS)

    @property
    def bits(self) -> int:
        """Width of a code. The bias is 1 - min_exponent, the exponent field's largest value 2 * bias + 1."""
        return 1 + (2 - self.min_exponent).bit_length() + self.mantissa_bits

    def magnitude(self, code: int) -> float:
        """The value of a code whose sign bit is 0."""
        field, mantissa = divmod(code, 1 << self.mantissa_bits)
        hidden = 1 if field else 0
        step = 2.0 ** (max(field, 1) - 1 + self.min_exponent - self.mantissa_bits)
        value = ((hidden << self.mantissa_bits) + mantissa) * step
        if value <= self.largest:
            return value
        return float("inf") if self.infinity and not mantissa else float("nan")

    @property
    def largest_code(self) -> int:
        """That of the largest number, without a sign."""
        return next(code for code in range(1 << (self.bits - 1)) if self.magnitude(code) == self.largest)

    def values(self, like: Tensor) -> Tensor:
        """The value of every code, fp32 [2^bits], on the device of `like`."""
        return _values(like, self)

    def codes(self, values: Tensor) -> Tensor:
        """The codes, uint8, of fp32 `values` that the element holds."""
        half = 1 << (self.bits - 1)
        first_normal = 1 << self.mantissa_bits
        magnitudes = values.abs()
        normal = (magnitudes.view(torch.int32) >> (MANTISSA_BITS - self.mantissa_bits)).sub_(
            (BIAS + self.min_exponent - 1) << self.mantissa_bits
        )
        # a subnormal's code is its multiple of the step, which `normal`, made for larger ones, falls short of
        subnormal = magnitudes.mul_(first_normal * 2.0**-self.min_exponent).clamp_max_(first_normal).int()
        sign = (values.view(torch.int32) >> (32 - self.bits)).bitwise_and_(half)
        return torch.maximum(normal, subnormal).bitwise_or_(sign).to(torch.uint8)

    def round_(self, v: Tensor, how: str, noise: Tensor | None) -> Tensor:
        """fp32 `v` rounded to the element's values, saturating (MX, section 6.3); NaN stays. v is overwritten."""
        # a subnormal element has the step of the smallest normal one
        step = binade(v).clamp_min_(2.0**self.min_exponent).mul_(2.0**-self.mantissa_bits)
        return round_integers_(v.div_(step), how, noise).mul_(step).clamp_(-self.largest, self.largest)


@table
def _values(element: Element) -> Tensor:
    positive = [element.magnitude(code) for code in range(1 << (element.bits - 1))]
    return torch.tensor([*positive, *(-value for value in positive)], dtype=torch.float32, device="cpu")


def look_up(table: Tensor, codes: Tensor) -> Tensor:
    """table[codes] for a 1-D table and uint8 codes of any shape."""
    return table.index_select(0, codes.flatten().int()).view(codes.shape)
