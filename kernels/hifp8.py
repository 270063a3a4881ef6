"""HiFloat8 (`hifp8`): "Ascend HiFloat8 Format for Deep Learning", arXiv 2409.16626.

Sign, a prefix-coded dot field, a sign-magnitude exponent and a mantissa share eight bits, so precision tapers:

| |exponent| | 0 .. 3 | 4 .. 7 | 8 .. 15 | denormal, -16 .. -22 |
| mantissa bits | 3 | 2 | 1 | 0: powers of two |

253 finite values up to 2^15, one zero (-0 becomes 0), NaN, Inf. Rounding: half away from zero;
|x| >= 1.25 * 2^15 becomes Inf, |x| < 2^-23 becomes 0. Stochastic rounding chooses between the two finite
neighbours; above 2^15 there is no upper one, and the rule for nearest decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantctl.kernels.rounding import BIAS, MANTISSA_BITS, binade, round_integers_
from quantctl.spec import FormatSpec

# magnitude of the exponent up to which a number of this format has so many mantissa bits
MANTISSA_BITS_BY_EXPONENT = ((3, 3), (7, 2), (15, 1))
MIN_EXPONENT = -22
LARGEST = 2.0**15
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


def _step_table(device: torch.device) -> Tensor:
    """The step by biased fp32 exponent, [256]; Inf and NaN (255) take the step of the binade below."""
    exponents = [min(field, 2 * BIAS) - BIAS for field in range(256)]
    return torch.tensor([2.0 ** _step_exponent(e) for e in exponents], dtype=torch.float32, device=device)


def _round(x: Tensor, how: str, noise: Tensor | None, largest: float | Tensor = LARGEST) -> Tensor:
    """fp32 `x` rounded to HiFloat8 values; those below OVERFLOW to at most `largest`."""
    exponent_field = (x.view(torch.int32) >> MANTISSA_BITS).bitwise_and_(0xFF)
    step = _step_table(x.device).index_select(0, exponent_field.flatten()).view(x.shape)
    rounded = round_integers_(x / step, how, noise).mul_(step).clamp_max_(largest).clamp_min_(-largest)
    return torch.where(x.abs() >= OVERFLOW, x * torch.inf, rounded.add_(0.0))  # + 0.0 makes -0 a 0


def tensor_scale(x: Tensor) -> Tensor:
    """The power of two, fp32 [], that x is divided by: amax / scale in [2^TENSOR_TARGET, 2^(TENSOR_TARGET+1)).

    NaN and Inf take no part; 1 if nothing but zeros is left.
    """
    amax = x.nan_to_num(0.0, 0.0, 0.0).abs_().amax()
    # clamped so that the scale is a normal number
    scale = (binade(amax) * 2.0**-TENSOR_TARGET).clamp_min(torch.finfo(torch.float32).tiny)
    return scale.masked_fill(amax == 0, 1.0)


def quantize_dequantize(x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """`x` (bf16, fp16 or fp32) through HiFloat8; same shape and dtype. Blocks play no role, so `axis` is unused.

    With scale=tensor the scale is that of the tensor given (under tensor parallelism, of the rank's shard), Inf and
    NaN stay what they are, and a finite value that rounds above the dtype's largest number becomes that number.
    """
    assert spec.round is not None
    how = "away" if spec.round == "nearest" else spec.round
    values = x.float()
    if spec.scale == "none" or x.numel() == 0:
        return _round(values, how, noise).to(x.dtype)
    scale = tensor_scale(values)
    largest = (torch.finfo(x.dtype).max / scale).clamp_max(LARGEST)
    return _round(values / scale, how, noise, largest).mul_(scale).to(x.dtype)
