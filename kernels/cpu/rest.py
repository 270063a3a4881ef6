"""What the compiled kernels leave to the reference: blocks at the ends of the range, NaN and Inf among them.

Hardly ever met, so they are not compiled for. There are subnormal numbers here, whatever the calling thread does with
them (torch.set_flush_denormal).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.cpu.geometry import Geometry, place
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import SCALED, has_tensor_scale
from quantctl.spec import FormatSpec


def flushes() -> bool:
    """Whether this thread flushes subnormal numbers to zero."""
    smallest = sys.float_info.min
    return smallest * 0.5 == 0.0


@contextmanager
def gradual_underflow() -> Iterator[None]:
    """Subnormal numbers stay what they are in this thread."""
    if not flushes():
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)


def through(
    out: Tensor, x: Tensor, spec: FormatSpec, axis: int, draw: philox.Draw | None, numbers: Tensor, amax: Tensor | None
) -> None:
    """x by the reference into `out`. numbers: int64 of x's shape, those that elements are drawn for. amax: the largest
    finite magnitude of the whole tensor or of lines, as the format wants it that has a scale of it, if it is known."""
    with gradual_underflow():
        noise = None if draw is None else philox.uniform_at(numbers, draw)
        if amax is not None and has_tensor_scale(spec):
            result = SCALED[spec.format].quantize_dequantize(x, spec, axis, noise, amax)
        else:
            result = FORMATS[spec.format].quantize_dequantize(x, spec, axis, noise)
        out.copy_(result)


class Tiles:
    """Those of one call of the kernels, by their numbers."""

    def __init__(self, x: Tensor, outs: Sequence[Tensor], spec: FormatSpec, g: Geometry, number: int) -> None:
        """number: that of x's first element among those that are drawn for."""
        self.spec, self.g, self.number = spec, g, number
        size = g.batch, g.m, g.n
        self.x = x.as_strided(size, (g.x_batch, g.x_m, 1))
        self.outs = [out.as_strided(size, (g.out_batch, g.out_m, 1)) for out in outs]

    def through(
        self, tile: int, roles: Sequence[str], draws: Sequence[philox.Draw | None], bits: int | np.ndarray | None
    ) -> None:
        """A tile by the reference. roles, draws: of each result."""
        g = self.g
        batch, row, column = place(tile, g)
        rows, columns = slice(row, row + g.rows), slice(column, column + g.columns)
        x = self.x[batch, rows, columns]
        down, right = (torch.arange(size, dtype=torch.int64, device="cpu") for size in x.shape)
        first = self.number + batch * g.number_batch + row * g.number_m + column * g.number_n
        numbers = first + down[:, None] * g.number_m + right * g.number_n
        for out, role, draw in zip(self.outs, roles, draws, strict=True):
            axis = 0 if role == "first" else 1
            amax = None if bits is None else torch.tensor(bits, dtype=torch.int32, device="cpu").view(torch.float32)
            if amax is not None and amax.dim():
                lines = amax.view(g.batch, -1)[batch]
                amax = lines[rows].view(-1, 1, 1) if axis else lines[columns]
            through(out[batch, rows, columns], x, self.spec, axis, draw, numbers, amax)
