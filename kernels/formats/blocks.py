"""How the elements that share a scale lie in a tensor.

A spec's `block` names it: `1x32`, so many along the quantized axis; `32x32`, squares of the tensor's last two axes, of
which the quantized axis is one; `row`, all of the quantized axis; `tensor`. A block that does not fit at an end is a
short one. The functions for codes have the quantized axis last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quantctl.spec import FormatSpec

WHOLE = 0
"""In the place of a number of elements: all there are."""


class Block(NamedTuple):
    """Elements of a block along the axis beside the quantized one, and along the quantized one; WHOLE for all."""

    across: int
    along: int

    @property
    def is_square(self) -> bool:
        """Whether it is the same along both axes, a whole tensor included."""
        return self.across == self.along

    @property
    def is_plain(self) -> bool:
        """Whether it lies along the quantized axis and its size is known beforehand."""
        return self.across == 1 and self.along != WHOLE


_NAMED = {"tensor": Block(WHOLE, WHOLE), "row": Block(1, WHOLE)}


def block_of(spec: FormatSpec, usual: int = 0) -> Block:
    """What `spec` says; usual: elements along the axis where it says nothing."""
    if spec.block is None:
        return Block(1, usual)
    return _NAMED.get(spec.block) or Block(*map(int, spec.block.split("x")))


def split(x: Tensor, block: Block) -> Tensor:
    """x [..., m, n] as [..., blocks, elements of a block]; zeros fill up short ones, which changes nothing of others.

    Blocks are [..., m, n / N] for 1xN, [..., m / N, n / N] for NxN, [..., m, 1] for rows, [1, ..., 1] for a tensor.
    """
    across, along = block
    if block.is_plain:
        return torch.nn.functional.pad(x, (0, -x.shape[-1] % along)).unflatten(-1, (-1, along))
    if along == WHOLE:
        return x.unsqueeze(-2) if across else x.reshape(*(1,) * x.dim(), -1)
    if x.dim() == 1:
        return split(x.unsqueeze(0), block).squeeze(0)
    filled = torch.nn.functional.pad(x, (0, -x.shape[-1] % along, 0, -x.shape[-2] % across))
    squares = filled.unflatten(-1, (-1, along)).unflatten(-3, (-1, across))
    return squares.movedim(-3, -2).flatten(-2)


def join(parts: Tensor, block: Block, shape: torch.Size) -> Tensor:
    """The inverse of `split`: what was filled up is left out."""
    across, along = block
    if block.is_plain:
        return parts.flatten(-2)[..., : shape[-1]]
    if along == WHOLE:
        return parts.reshape(shape)
    if len(shape) == 1:
        return join(parts.unsqueeze(0), block, torch.Size((1, *shape))).squeeze(0)
    squares = parts.unflatten(-1, (across, along)).movedim(-2, -3).flatten(-2).flatten(-3, -2)
    return squares[..., : shape[-2], : shape[-1]]


def scale_shape(size: tuple[int, int], block: Block) -> tuple[int, int]:
    """Blocks of a matrix of `size`, the quantized axis last."""
    m, n = size
    if block.along == WHOLE:
        return (m, 1) if block.across else (1, 1)
    return -(-m // block.across), -(-n // block.along)


Quantize = Callable[[Tensor, FormatSpec, int, Tensor | None], Tensor]


def through(quantize: Quantize, block: Block, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """`quantize` on x in blocks that fill an axis, the one that it is given; a tensor of x's shape and strides.

    The axis that counts blocks stands in front of it. Blocks along `axis` (>= 0) are views where they fit.
    """
    if block.is_plain:
        return _along(quantize, block.along, x, spec, axis, noise)
    rows, row_noise = (None if t is None else split(t.movedim(axis, -1), block) for t in (x, noise))
    assert rows is not None
    result = join(quantize(rows, spec, rows.dim() - 1, row_noise), block, x.movedim(axis, -1).shape)
    return torch.empty_like(x).copy_(result.movedim(-1, axis))


def _along(quantize: Quantize, size: int, x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    length = x.shape[axis]
    whole = length - length % size

    def piece(start: int, length: int, blocks: tuple[int, int]) -> Tensor:
        part, part_noise = (
            None if t is None else t.narrow(axis, start, length).unflatten(axis, blocks) for t in (x, noise)
        )
        assert part is not None
        return quantize(part, spec, axis + 1, part_noise).flatten(axis, axis + 1)

    if whole == length:
        return piece(0, length, (length // size, size))
    out = torch.empty_like(x)
    out.narrow(axis, 0, whole).copy_(piece(0, whole, (whole // size, size)))
    out.narrow(axis, whole, length - whole).copy_(piece(whole, length - whole, (1, length - whole)))
    return out


def block_amax(values: Tensor, axis: int) -> Tensor:
    """max |values| along `axis`, which stays with length 1; NaN if there is a NaN, 0 of nothing."""
    if not values.shape[axis]:
        return values.sum(axis, keepdim=True)
    # two reductions that write nothing are faster than |values| and one
    amax = torch.maximum(values.amax(axis, keepdim=True), -values.amin(axis, keepdim=True))
    return amax.abs_()  # of zeros it may be -0
