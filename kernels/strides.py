"""Any tensor as a batch of matrices by strides, for kernels that work on tiles of a matrix."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

Strides = tuple[int, ...]


class Dim(NamedTuple):
    """One dimension of the launch: its size, and the strides of x, of the result, and of the elements' numbers."""

    size: int
    x: int
    out: int
    number: int


ONE = Dim(1, 0, 0, 0)


class Matrices(NamedTuple):
    """A tensor as a batch of matrices [m, n]; n has the smaller stride."""

    batch: Dim
    m: Dim
    n: Dim
    roles: tuple[str, ...]
    """For each quantized axis: `last` if it is n, `first` if it is m."""


def _merged(dims: list[Dim]) -> list[Dim]:
    """The same elements in the same order with as few dimensions as the strides allow."""
    merged: list[Dim] = []
    for size, *strides in (d for d in dims if d.size != 1):
        fits = merged and all(a == b * size for a, b in zip(merged[-1][1:], strides, strict=True))
        merged.append(Dim(size * merged.pop().size if fits else size, *strides))
    return merged


def _dims(sizes: Strides, x: Strides, out: Strides) -> list[Dim]:
    index = [1] * len(sizes)
    for i in range(len(sizes) - 1, 0, -1):
        index[i - 1] = index[i] * sizes[i]
    return [Dim(*row) for row in zip(sizes, x, out, index, strict=True)]


@lru_cache(maxsize=1024)
def matrices(sizes: Strides, x: Strides, out: Strides, axes: tuple[int, ...]) -> Matrices | None:
    """The launch for one or two `axes` of a tensor of `sizes` and strides `x`, and results with the strides `out`.

    None if the other dimensions cannot be merged into so few.
    """
    dims = _dims(sizes, x, out)
    edges = sorted(axes)
    between = [dims[a + 1 : b] for a, b in zip([-1, *edges], [*edges, len(dims)], strict=True)]
    others = [dim for group in between for dim in _merged(group)]
    if len(others) + len(axes) > 3:
        return None
    quantized = [dims[axis] for axis in axes]
    if len(axes) == 1:
        # the matrix's other dimension is the one with the smallest stride; the rest are batches
        others.sort(key=lambda dim: dim.x, reverse=True)
        partner = others.pop() if others else ONE
    else:
        partner = quantized[1]
    batch = others[0] if others else ONE
    if quantized[0].x <= partner.x or partner is ONE:
        return Matrices(batch, partner, quantized[0], ("last", "first")[: len(axes)])
    return Matrices(batch, quantized[0], partner, ("first", "last")[: len(axes)])
