"""What a format does to one tensor: range, underflow, saturation, SQNR, and the block scales it takes.

    amax       max |x|
    underflow  share of the nonzero elements that become zero
    saturated  share of the elements whose magnitude exceeds the largest that their block can hold
    SQNR       10 log10(sum x^2 / sum (x - q)^2), dB
    scales     how many blocks have a scale in [2^e, 2^(e+1)), for each e

`measure` leaves its results on the device, so that a training step does not wait for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from quantctl.kernels import philox
from quantctl.kernels.formats.elements import look_up
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.mxfp8 import E4M3
from quantctl.kernels.formats.quantize import FORMATS, axis_of, operand
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS
from quantctl.kernels.formats.tensor_scale import has_tensor_scale
from quantctl.spec import FormatSpec, parse

_EXPONENTS = 256
_DRAW = philox.Draw(0, 0)
"""Stochastic rounding is measured with noise of its own: the run's draws stay what they are without statistics."""


def _decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, minus infinite where a value became infinite."""
    if noise == 0:
        return math.inf
    if noise == math.inf and signal < math.inf:
        return -math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else math.nan


@dataclass(frozen=True)
class Measured:
    """Results on the device."""

    sums: Tensor
    """fp32 [6]: amax; elements lost to zero, nonzero, saturated; sum of squares, sum of squared errors."""
    exponents: Tensor | None
    """int32 [256]: blocks by biased exponent of their scale; None where the format has no scales."""
    numel: int

    def read(self) -> dict[str, float | dict[str, int]]:
        """The figures; waits for the device. SQNR is infinite where nothing was lost."""
        amax, lost, nonzero, saturated, signal, noise = self.sums.tolist()
        figures: dict[str, float | dict[str, int]] = {
            "amax": amax,
            "underflow": lost / nonzero if nonzero else 0.0,
            "saturated": saturated / self.numel if self.numel else 0.0,
            "sqnr": _decibels(signal, noise),
        }
        if self.exponents is not None:
            counts = self.exponents.tolist()
            figures["scales"] = {str(e - BIAS): count for e, count in enumerate(counts) if count}
        return figures


def for_json(figures: dict[str, float | dict[str, int]]) -> dict[str, float | dict[str, int] | None]:
    """What `read` gave, with null for the infinite and the undefined, which JSON does not know."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in figures.items()}


@lru_cache(maxsize=32)
def _largest_code(spec: FormatSpec) -> int:
    """The code of the largest finite number: whatever the scale, it decodes to the largest value."""
    format_ = FORMATS[spec.format]
    count = 1 << format_.bits(spec)
    blocks = -(-count // format_.block) if format_.block else 0
    with _disable_current_modes():  # it is looked at here, and kept
        unit = 0x38 if has_tensor_scale(spec) else BIAS  # 1 in E4M3, which NVFP4's block scales are, and in E8M0
        scales = torch.full((blocks,), unit, dtype=torch.uint8, device="cpu") if blocks else None
        one = torch.ones((), dtype=torch.float32, device="cpu")
        codes = Codes(torch.arange(count, dtype=torch.uint8, device="cpu"), scales, one)
        values = format_.decode(codes, spec, torch.float32)
        infinite = values.abs() >= torch.finfo(values.dtype).max  # decoding clamps what lies above
        return int(values.masked_fill(infinite | values.isnan(), -1.0).argmax())


def _scale_exponents(codes: Codes) -> Tensor | None:
    """Biased exponent of each block's scale, or of the tensor's; None where there is neither."""
    if codes.block_scales is not None and codes.tensor_scale is None:
        return codes.block_scales  # E8M0 is one
    scales = codes.tensor_scale
    if codes.block_scales is not None and scales is not None:
        scales = scales * look_up(E4M3.values(codes.block_scales), codes.block_scales)
    return None if scales is None else (scales.float().view(torch.int32) >> MANTISSA_BITS) & 0xFF


@torch.no_grad()
def measure(x: Tensor, spec: FormatSpec | str, axis: int) -> Measured:
    """What quantizing `x` (bf16, fp16 or fp32, any shape) in blocks along `axis` does; x is not written to.

    Stochastic rounding is measured with noise of its own, so a run's draws are what they are without statistics.
    Raises QuantctlError as quantize_dequantize does.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    format_ = FORMATS[spec.format]
    rows = operand(x, spec)
    rows = rows.movedim(axis_of(rows, axis), -1).contiguous()
    noise = philox.uniform(rows.shape, _DRAW, rows.device) if spec.round == "stochastic" else None
    codes = format_.encode(rows, spec, noise)
    largest = Codes(torch.full_like(codes.elements, _largest_code(spec)), codes.block_scales, codes.tensor_scale)
    values = format_.decode(codes, spec, torch.float32)
    wide = rows.float()
    magnitude = wide.abs()
    nonzero = magnitude != 0
    sums = (
        magnitude.max() if rows.numel() else wide.new_zeros(()),
        (nonzero & (values == 0)).sum(),
        nonzero.sum(),
        (magnitude > format_.decode(largest, spec, torch.float32)).sum(),
        wide.square().sum(),
        (wide - values).square_().sum(),
    )
    exponents = _scale_exponents(codes)
    if exponents is not None:
        flat = exponents.reshape(-1).long()
        ones = torch.ones_like(flat, dtype=torch.int32)
        exponents = torch.zeros(_EXPONENTS, dtype=torch.int32, device=flat.device).scatter_add_(0, flat, ones)
    return Measured(torch.stack([total.float() for total in sums]), exponents, rows.numel())
