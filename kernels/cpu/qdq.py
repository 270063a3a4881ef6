"""Quantize-dequantize on a CPU: any format, scale rule, rounding and strides, one or two axes from one reading."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels.cpu import rest, tiles
from quantctl.kernels.cpu.geometry import Geometry, count
from quantctl.kernels.cpu.hadamard import transformed
from quantctl.kernels.cpu.noise import NO_KEY, Key, key
from quantctl.kernels.cpu.numbers import amax_wanted, numbers_of
from quantctl.kernels.cpu.room import MAPPED, Room, room_of
from quantctl.kernels.cpu.rounding import RULES, ByFraction, Nearest
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.cpu.words import ALL, LIKE, MOST, Memory, memory
from quantctl.kernels.formats import hadamard
from quantctl.kernels.formats.blocks import WHOLE, Block, block_of
from quantctl.kernels.formats.four_over_six import ERRORS
from quantctl.kernels.formats.quantize import FORMATS, is_same_along_all_axes
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import matrices
from quantctl.spec import FormatSpec

ROLES = ("last", "first")
_WAITS = 64 << 10
"""Bytes from which on a result that waits is better out of the caches. From room.MAPPED on the system has just filled
its pages with zeros, and it is in them."""


class _Plan(NamedTuple):
    """What the kernels are called with beside the tensors: the same for all tensors of one layout."""

    geometry: Geometry
    tiles: int
    elements: int
    roles: tuple[str, ...]
    """For each axis, which of the kernel's results, ROLES, is its."""
    places: tuple[int, ...]
    """The same by number."""
    unasked: tuple[int | None, ...]
    """For each role, the kernel's address of a result that is not asked for; None where formats without blocks have no
    kernel for it."""
    undrawn: Key | None
    """The kernel's key where nothing is drawn: one that plays no role; None where no rounding takes any."""
    along: int
    """Elements of a block."""
    by_rows: bool
    """Whether the first axis is that of the rows."""
    wanted: str | None
    """See amax_wanted."""
    lines: int
    """How many have a largest magnitude of their own; 0 where the tensor has one."""
    numbers: Any
    """None where they follow from the values."""
    rule: Nearest | ByFraction


class _Call(NamedTuple):
    """What the kernel is called with beside addresses."""

    kind: Hashable
    """All of the arguments' types."""
    constants: tuple[Any, ...]


Sizes = tuple[int, ...]
Draws = tuple[Draw | None, ...]
Bits = int | np.ndarray
"""Of the tensor's largest magnitude in fp32, or those of each line's, int32 [lines]."""


def _span(sizes: Sizes, strides: Sizes) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


@lru_cache(maxsize=1024)
def _plan(spec: FormatSpec, dtype: torch.dtype, sizes: Sizes, x: Sizes, out: Sizes, axes: Sizes) -> _Plan | None:
    """For strides `x` of the tensor and `out` of the results. None if one call of the kernels cannot do it."""
    spans = _span(sizes, x), _span(sizes, out)
    format_ = FORMATS[spec.format]
    block = block_of(spec, format_.block) if format_.has_blocks else Block(WHOLE, WHOLE)
    in_squares = block.across > 1
    of_lines = spec.extent == "row"
    if len(axes) != len(set(axes)) or len(axes) > 1 + (block.is_plain and not of_lines):
        return None
    of_squares = (len(sizes) - 2, len(sizes) - 1)
    if in_squares and len(sizes) == 1:
        sizes, x, out = ((1, *sizes), (sizes[0] * x[0], *x), (sizes[0] * out[0], *out))
    launch = matrices(sizes, x, out, (len(sizes) - 2, len(sizes) - 1) if in_squares else axes)
    if launch is None or not (launch.n.size == 1 or launch.n.x == launch.n.out == 1):  # rows lie in one piece
        return None
    batch, m, n, roles = launch
    by_rows = roles[axes[0] == of_squares[1] if in_squares else 0] == "last"
    # where the axis plays no role, rows serve every one
    roles = ("last",) if block == Block(WHOLE, WHOLE) else ("first",) if in_squares else roles
    along = block.along or {"last": n.size, "first": m.size}[roles[0]]
    geometry = Geometry(
        *(batch.size, m.size, n.size, batch.x, m.x, batch.out, m.out, batch.number, m.number, n.number),
        max(tiles.ROWS, along if "first" in roles else 0),
        max(tiles.COLUMNS, along if "last" in roles and block.across else 0),
        *spans,
        max(block.across, 1),
        # of both ways, a forward's is wanted next, a backward's later
        roles == ROLES and _WAITS <= math.prod(sizes) * dtype.itemsize < MAPPED,
    )
    wanted = amax_wanted(spec)
    lines = batch.size * (m.size if by_rows else n.size) if of_lines else 0
    # HiFloat4's nearest is half away from zero, as HiFloat8's, whose kernels say so themselves
    rule = RULES["away" if spec.format == "hifp4" and spec.round == "nearest" else str(spec.round)]
    return _Plan(
        geometry,
        count(geometry),
        math.prod(sizes),
        roles,
        tuple(map(ROLES.index, roles)),
        (0, None if block == Block(WHOLE, WHOLE) else 0),
        NO_KEY if isinstance(rule, ByFraction) else None,
        along,
        by_rows,
        wanted,
        lines,
        None if wanted else numbers_of(spec, dtype, along, by_rows),
        rule,
    )


def _amax(words: Memory, dtype: torch.dtype, plan: _Plan, elements: int) -> Bits:
    """The fp32 bits of the largest magnitudes that the plan wants."""
    most = MOST[dtype][str(plan.wanted)]
    if plan.lines:
        found = np.zeros(plan.lines, np.int32)
        work = partial(tiles.amax_of_lines, dtype, words, plan.geometry, most, plan.by_rows, found)
        in_pieces(work, plan.geometry.batch, elements)
        return found
    work = partial(tiles.amax, dtype, words, plan.geometry, most)
    return int(max(in_pieces(work, plan.geometry.batch * plan.geometry.m, elements)))


def quantize_dequantize(
    x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: Draws, gaps: bool = False
) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: for each axis, where the spec rounds stochastically. gaps: as room_of's.
    """
    if hadamard.is_wanted(spec):
        return [_behind_transform(x, spec, axis, draw, gaps) for axis, draw in zip(axes, draws, strict=True)]
    room = room_of(x.dtype, x.shape, x.stride(), gaps)
    outs = [room.make() for _ in axes]
    into(outs, x, spec, axes, draws)
    return outs


class _Both(NamedTuple):
    """How contiguous tensors of one shape are quantized along both axes of their matrix."""

    plan: _Plan
    call: _Call
    values: Room
    along_rows: Room | None
    """None where it is the same both ways."""


@lru_cache(maxsize=1024)
def _both(spec: FormatSpec, dtype: torch.dtype, sizes: Sizes, gaps: bool) -> _Both | None:
    """None where more than the kernels has to be called, or their numbers follow from the values."""
    rows, columns = math.prod(sizes[:-1]), sizes[-1]
    if not rows * columns or spec.is_random or hadamard.is_wanted(spec):
        return None
    matrix = room_of(dtype, (rows, columns), (columns, 1), gaps)
    is_same = is_same_along_all_axes(spec)
    plan = _plan(spec, dtype, matrix.sizes, (columns, 1), matrix.strides, (1,) if is_same else (1, 0))
    if plan is None or plan.numbers is None:
        return None
    return _Both(plan, _call(plan, plan.numbers, dtype), matrix.viewed(sizes), None if is_same else matrix)


def both(x: Tensor, spec: FormatSpec, gaps: bool) -> tuple[Tensor, Tensor] | None:
    """x [..., n], contiguous and as stored, along its last axis, in its own shape, and along the others flattened,
    [rows, n].

    What a small layer waits for is Python, so that all but the tensors is found by one look. None where that is not
    enough: quantize_dequantize then serves.
    """
    how = _both(spec, x.dtype, x.shape, gaps)
    if how is None:
        return None
    values = how.values.make()
    if how.along_rows is None:
        _compute(how.plan, how.call, x, (values,), spec, (None,))
        return values, values.view(-1, x.shape[-1])
    along_rows = how.along_rows.make()
    _compute(how.plan, how.call, x, (values, along_rows), spec, (None, None))
    return values, along_rows


def _behind_transform(x: Tensor, spec: FormatSpec, axis: int, draw: Draw | None, gaps: bool) -> Tensor:
    hadamard.check_fits(x, spec, axis)
    rest_of_spec = hadamard.without(spec)
    y, bits = transformed(x, spec, axis, draw, amax_wanted(rest_of_spec) or ALL)
    out = room_of(y.dtype, y.shape, y.stride(), gaps).make()
    into([out], y, rest_of_spec, (axis,), (draw,), bits=None if spec.extent == "row" else bits)
    return hadamard.lowered(out, x.dtype)


def into(
    outs: Sequence[Tensor],
    x: Tensor,
    spec: FormatSpec,
    axes: tuple[int, ...],
    draws: Draws,
    number: int = 0,
    bits: Bits | None = None,
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
    numbers = plan.numbers
    if numbers is None:
        bits = _amax(memory(x, plan.geometry.x_span), x.dtype, plan, elements) if bits is None else bits
        numbers = numbers_of(spec, x.dtype, plan.along, plan.by_rows, bits)
    # errors are subnormal where no operand is
    if numbers is None or (spec.scale in ERRORS and rest.flushes()):
        _by_reference(outs, x, spec, axes, draws, number, bits)
        return
    _compute(plan, _call(plan, numbers, x.dtype, draws, number), x, outs, spec, draws, number, bits)


def _call(plan: _Plan, numbers: Any, dtype: torch.dtype, draws: Draws = (), number: int = 0) -> _Call:
    """numbers: numbers_of the tensor; the rest as into's."""
    keys = [plan.undrawn for _ in ROLES]
    for place, draw in zip(plan.places, draws, strict=False):
        if draw is not None:
            keys[place] = key(draw, number)
    kind = dtype, type(numbers), type(plan.rule)
    return _Call(kind, (LIKE[dtype], numbers, plan.rule, *keys, plan.geometry))


def _compute(
    plan: _Plan,
    call: _Call,
    x: Tensor,
    outs: Sequence[Tensor],
    spec: FormatSpec,
    draws: Draws,
    number: int = 0,
    bits: Bits | None = None,
) -> None:
    """Call the kernels; the rest as into's."""
    results = list(plan.unasked)
    for place, out in zip(plan.places, outs, strict=True):
        results[place] = out.data_ptr()
    arguments = (x.data_ptr(), *results, *call.constants)

    def work(start: int, stop: int) -> None:
        while (done := tiles.quantize_dequantize(call.kind, *arguments, start, stop)) < stop:
            rest.Tiles(x, outs, spec, plan.geometry, number).through(done, plan.roles, draws, bits)
            start = done + 1

    in_pieces(work, plan.tiles, plan.elements)


def _by_reference(
    outs: Sequence[Tensor],
    x: Tensor,
    spec: FormatSpec,
    axes: tuple[int, ...],
    draws: Draws,
    number: int,
    bits: Bits | None,
) -> None:
    numbers = torch.arange(number, number + x.numel(), device="cpu").view(x.shape)
    amax = torch.tensor(bits, dtype=torch.int32, device="cpu").view(torch.float32) if isinstance(bits, int) else None
    for out, axis, draw in zip(outs, axes, draws, strict=True):
        rest.through(out, x, spec, axis, draw, numbers, amax)
