"""Quantize-dequantize of matrices in groups on a CPU, each group as if it were alone; products/grouped_quantize.py."""

from __future__ import annotations

from torch import Tensor

from quantctl.kernels.cpu.qdq import Draws, into
from quantctl.kernels.cpu.room import room_like
from quantctl.kernels.products.groups import Groups
from quantctl.spec import FormatSpec


def quantize_rows(x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], draws: Draws) -> list[Tensor]:
    """x [rows, n], contiguous, along each of `axes`: 1, within the rows, or 0, along the rows of each group."""
    results = [room_like(x) for _ in axes]
    ends = groups.ends.tolist()
    for start, stop in zip([0, *ends], ends, strict=False):
        into([result[start:stop] for result in results], x[start:stop], spec, axes, draws, start * x.shape[1])
    return results


def quantize_stack(stack: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: Draws) -> list[Tensor]:
    """Matrices [matrices, out, in], contiguous, along each of `axes`, counted within a matrix, one by one."""
    results = [room_like(stack) for _ in axes]
    for i, matrix in enumerate(stack):
        into([result[i] for result in results], matrix, spec, axes, draws, i * matrix.numel())
    return results
