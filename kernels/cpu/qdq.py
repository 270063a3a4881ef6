"""Quantize-dequantize on a CPU: any format, scale rule, rounding and strides, one or two axes from one reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantctl.kernels.cpu import rest, tiles
from quantctl.kernels.cpu.geometry import Geometry, count
from quantctl.kernels.cpu.hadamard import transformed
from quantctl.kernels.cpu.noise import NO_KEY, key
from quantctl.kernels.cpu.numbers import amax_wanted, numbers_of
from quantctl.kernels.cpu.room import room_like
from quantctl.kernels.cpu.rounding import RULES, ByFraction, Nearest
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.cpu.words import ALL, MOST, Memory, memory, nothing
from quantctl.kernels.formats import hadamard
from quantctl.kernels.formats.blocks import WHOLE, Block, block_of
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import matrices
from quantctl.spec import FormatSpec


class _Plan(NamedTuple):
    """What the kernels are called with beside the tensors: the same for all tensors of one layout."""

    geometry: Geometry
    tiles: int
    spans: tuple[int, int]
    """Elements of memory from the first to the last, of x and of a result."""
    roles: tuple[str, ...]
    """For each axis, which result of the kernel is its."""
    has_blocks: bool
    along: int
    """Elements of a block."""
    wanted: str | None
    """See amax_wanted."""
    numbers: Any
    """None where they follow from the values."""
    rule: Nearest | ByFraction


Sizes = tuple[int, ...]
Draws = tuple[Draw | None, ...]


def _span(sizes: Sizes, strides: Sizes) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


@lru_cache(maxsize=1024)
def _plan(spec: FormatSpec, dtype: torch.dtype, sizes: Sizes, x: Sizes, out: Sizes, axes: Sizes) -> _Plan | None:
    """For strides `x` of the tensor and `out` of the results. None if one call of the kernels cannot do it."""
    span = _span(sizes, x), _span(sizes, out)
    format_ = FORMATS[spec.format]
    block = block_of(spec, format_.block) if format_.has_blocks else Block(WHOLE, WHOLE)
    in_squares = block.across > 1
    if len(axes) != len(set(axes)) or len(axes) > 1 + block.is_plain:
        return None
    if in_squares and len(sizes) == 1:
        sizes, x, out = ((1, *sizes), (sizes[0] * x[0], *x), (sizes[0] * out[0], *out))
    launch = matrices(sizes, x, out, (len(sizes) - 2, len(sizes) - 1) if in_squares else axes)
    if launch is None or not (launch.n.size == 1 or launch.n.x == launch.n.out == 1):  # rows lie in one piece
        return None
    batch, m, n, roles = launch
    # where the axis plays no role, rows serve every one
    roles = ("last",) if block == Block(WHOLE, WHOLE) else ("first",) if in_squares else roles
    along = block.along or {"last": n.size, "first": m.size}[roles[0]]
    geometry = Geometry(
        *(batch.size, m.size, n.size, batch.x, m.x, batch.out, m.out, batch.number, m.number, n.number),
        max(tiles.ROWS, along if "first" in roles else 0),
        max(tiles.COLUMNS, along if "last" in roles and block.across else 0),
        max(block.across, 1),
    )
    wanted = amax_wanted(spec)
    return _Plan(
        geometry,
        count(geometry),
        span,
        roles,
        block != Block(WHOLE, WHOLE),
        along,
        wanted,
        None if wanted else numbers_of(spec, dtype, along),
        RULES[str(spec.round)],
    )


def _amax(words: Memory, dtype: torch.dtype, plan: _Plan, elements: int) -> int:
    """The fp32 bits of the largest magnitude that the plan wants."""
    work = partial(tiles.amax, dtype, words, plan.geometry, MOST[dtype][str(plan.wanted)])
    return int(max(in_pieces(work, plan.geometry.batch * plan.geometry.m, elements)))


def quantize_dequantize(x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: Draws) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: for each axis, where the spec rounds stochastically.
    """
    if hadamard.is_wanted(spec):
        return [_behind_transform(x, spec, axis, draw) for axis, draw in zip(axes, draws, strict=True)]
    outs = [room_like(x) for _ in axes]
    into(outs, x, spec, axes, draws)
    return outs


def _behind_transform(x: Tensor, spec: FormatSpec, axis: int, draw: Draw | None) -> Tensor:
    hadamard.check_fits(x, spec, axis)
    rest_of_spec = hadamard.without(spec)
    y, bits = transformed(x, spec, axis, draw, amax_wanted(rest_of_spec) or ALL)
    out = room_like(y)
    into([out], y, rest_of_spec, (axis,), (draw,), bits=bits)
    return hadamard.lowered(out, x.dtype)


def into(
    outs: Sequence[Tensor],
    x: Tensor,
    spec: FormatSpec,
    axes: tuple[int, ...],
    draws: Draws,
    number: int = 0,
    bits: int | None = None,
) -> None:
    """quantize_dequantize into tensors of x's shape and dtype, and of equal strides.

    number: that of x's first element among those that are drawn for. bits: of the fp32 number that amax_wanted says, if
    it is known.
    """
    elements = x.numel()
    if not elements:
        return
    plan = _plan(spec, x.dtype, x.shape, x.stride(), outs[0].stride(), axes)
    if plan is None and len(axes) > 1:
        for out, axis, draw in zip(outs, axes, draws, strict=True):
            into([out], x, spec, (axis,), (draw,), number, bits)
        return
    if plan is None:
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        into([result], x.contiguous(), spec, axes, draws, number, bits)
        outs[0].copy_(result)
        return
    words, numbers = memory(x, plan.spans[0]), plan.numbers
    if numbers is None:
        bits = _amax(words, x.dtype, plan, elements) if bits is None else bits
        numbers = numbers_of(spec, x.dtype, plan.along, bits)
    if numbers is None:
        _by_reference(outs, x, spec, axes, draws, number, bits)
        return
    # what is not asked for is empty; formats without blocks have no kernel for it
    results = {"last": nothing(x), "first": nothing(x) if plan.has_blocks else None}
    keys = {"last": NO_KEY, "first": NO_KEY}
    for role, out, draw in zip(plan.roles, outs, draws, strict=True):
        results[role] = memory(out, plan.spans[1])
        keys[role] = NO_KEY if draw is None else key(draw, number)
    kind = x.dtype, type(numbers), type(plan.rule)
    arguments = (words, results["last"], results["first"], numbers, plan.rule, keys["last"], keys["first"],
                 plan.geometry)  # fmt: skip

    def work(start: int, stop: int) -> None:
        while (done := tiles.quantize_dequantize(kind, *arguments, start, stop)) < stop:
            rest.Tiles(x, outs, spec, plan.geometry, number).through(done, plan.roles, draws, bits)
            start = done + 1

    in_pieces(work, plan.tiles, elements)


def _by_reference(
    outs: Sequence[Tensor],
    x: Tensor,
    spec: FormatSpec,
    axes: tuple[int, ...],
    draws: Draws,
    number: int,
    bits: int | None,
) -> None:
    numbers = torch.arange(number, number + x.numel()).view(x.shape)
    for out, axis, draw in zip(outs, axes, draws, strict=True):
        rest.through(out, x, spec, axis, draw, numbers, bits)
