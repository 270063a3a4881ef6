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

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.formats.codes import decode_rows, encode_rows
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.hadamard import transformed, without
from quantctl.kernels.formats.quantize import FORMATS, axes_of, noise_for, operand
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS
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


def _scale_exponents(codes: Codes, spec: FormatSpec) -> Tensor | None:
    """Biased exponent of each block's scale, or of the tensor's; None where there is neither."""
    scales = FORMATS[spec.format].factors(codes, spec)
    return None if scales is None else (scales.float().view(torch.int32) >> MANTISSA_BITS) & 0xFF


@torch.no_grad()
def measure(x: Tensor, spec: FormatSpec | str, axis: int) -> Measured:
    """What quantizing `x` (bf16, fp16 or fp32, any shape) in blocks along `axis` does; x is not written to.

    Stochastic rounding and random signs are measured with draws of their own, so a run's are what they are without
    statistics. With a Hadamard transform the figures are those of its result. Raises QuantctlError as
    quantize_dequantize does.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    format_ = FORMATS[spec.format]
    rows = operand(x, spec)
    (axis,) = axes_of(rows, (axis,), spec)
    rows, spec = transformed(rows, spec, axis, _DRAW), without(spec)
    rows = rows.movedim(axis, -1).contiguous()
    codes = encode_rows(rows, spec, noise_for(rows, spec, _DRAW))
    largest = Codes(torch.full_like(codes.elements, format_.largest_code(spec)), codes.block_scales, codes.tensor_scale)
    values = decode_rows(codes, spec, torch.float32)
    wide = rows.float()
    magnitude = wide.abs()
    nonzero = magnitude != 0
    sums = (
        magnitude.max() if rows.numel() else wide.new_zeros(()),
        (nonzero & (values == 0)).sum(),
        nonzero.sum(),
        (magnitude > decode_rows(largest, spec, torch.float32)).sum(),
        wide.square().sum(),
        (wide - values).square_().sum(),
    )
    exponents = _scale_exponents(codes, spec)
    if exponents is not None:
        flat = exponents.reshape(-1).long()
        ones = torch.ones_like(flat, dtype=torch.int32)
        exponents = torch.zeros(_EXPONENTS, dtype=torch.int32, device=flat.device).scatter_add_(0, flat, ones)
    return Measured(torch.stack([total.float() for total in sums]), exponents, rows.numel())
