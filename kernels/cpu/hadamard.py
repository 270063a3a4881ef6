"""The Hadamard transform of formats/hadamard.py on a CPU, each sum and product as there.

What is transformed together lies in a workspace in the first cache. Numbers that are to be added are 16 and more apart
there, and vectors of 16 are added; or they are neighbours, and a vector is added to itself with its lanes exchanged.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from quantctl.kernels.cpu.compiled import Kernel, part, place_of
from quantctl.kernels.cpu.rest import flushes
from quantctl.kernels.cpu.room import room_like
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.cpu.words import ALL, MOST, magnitude, memory, narrowed, number, unsigned, words_of
from quantctl.kernels.formats import hadamard
from quantctl.kernels.philox import Draw, random_signs
from quantctl.spec import FormatSpec

_WORKSPACE = 8192
"""Elements: 32 KiB, which the first cache holds."""
_LANES = 16
"""Of a vector: as many as the smallest transform has."""
_VECTOR = ir.VectorType(ir.FloatType(), _LANES)


class _Lines(NamedTuple):
    """Pieces that fill the workspace, each of `rows` rows of up to `width` elements, `stride` apart in memory; there
    are `together` elements in the rows of a group, and `groups` of those, `group` elements apart."""

    size: Any
    """Elements that are transformed together: neighbours in the one row of a piece, or a column of its rows."""
    rows: Any
    width: Any
    stride: Any
    together: Any
    groups: Any
    group: Any


def _lines(shape: torch.Size, axis: int, size: int) -> _Lines:
    """Of a contiguous tensor."""
    inner, elements = shape[axis + 1 :].numel(), shape.numel()
    if inner == 1:
        return _Lines(size, 1, min(_WORKSPACE, elements), 0, elements, 1, elements)
    width = min(_WORKSPACE // size, -(-inner // _LANES) * _LANES)
    return _Lines(size, size, width, inner, inner, elements // (size * inner), size * inner)


@intrinsic
def _add_lanes(typing_context: Any, words: Any, at: Any) -> Any:
    """The sums and differences of the 16 words from words[at] on: of those one apart, then two, four, eight.

    LLVM makes no vectors of a loop whose lanes meet.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = place_of(context, builder, _VECTOR, words, *arguments)
        number = ir.VectorType(ir.IntType(32), _LANES)
        values = builder.load(lanes, align=4)
        for apart in (1, 2, 4, 8):
            others = [lane ^ apart for lane in range(_LANES)]
            exchanged = builder.shuffle_vector(values, values, ir.Constant(number, others))
            sums, differences = builder.fadd(exchanged, values), builder.fsub(exchanged, values)
            chosen = [lane + (_LANES if lane & apart else 0) for lane in range(_LANES)]
            values = builder.shuffle_vector(sums, differences, ir.Constant(number, chosen))
        builder.store(values, lanes, align=4)
        return context.get_dummy_value()

    return types.none(words, types.uint64), generate


@intrinsic
def _add_vectors(typing_context: Any, words: Any, first: Any, second: Any) -> Any:
    """The sums of 16 words each from words[first] and words[second] on, and their differences, in their places."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, *places = arguments
        firsts, seconds = (place_of(context, builder, _VECTOR, words, array, place) for place in places)
        a, b = builder.load(firsts, align=4), builder.load(seconds, align=4)
        builder.store(builder.fadd(a, b), firsts, align=4)
        builder.store(builder.fsub(a, b), seconds, align=4)
        return context.get_dummy_value()

    return types.none(words, types.uint64, types.uint64), generate


@part
def _butterfly(work: Any, lines: Any) -> None:
    """Of all lines in the workspace."""
    zero, lanes, used = np.uint64(0), np.uint64(_LANES), np.uint64(len(work))
    apart, stop = np.uint64(lines.width), np.uint64(lines.width * lines.size)
    if lines.rows == 1:
        for at in range(zero, used, lanes):
            _add_lanes(work, at)
        apart, stop = lanes, np.uint64(lines.size)
    while apart < stop:
        for both in range(zero, used, apart + apart):
            for at in range(both, both + apart, lanes):
                _add_vectors(work, at, at + apart)
        apart += apart


@Kernel
def _transform(
    source_of: Any, target_of: Any, signs: Any, factor: Any, lines: Any, most: Any, start: Any, stop: Any
) -> Any:
    """Pieces start .. stop. source_of, target_of: memory; signs: of each element of the workspace.

    Returns the fp32 bits of the largest magnitude of the results; most: the largest word that counts, without a sign.
    """
    x, out = words_of(source_of), words_of(target_of)
    work = np.zeros(lines.rows * lines.width, np.float32)
    like = out.dtype.type(0)
    found = like
    pieces = (lines.together + lines.width - 1) // lines.width
    for piece in range(start, stop):
        group, first = divmod(piece, pieces)
        first *= lines.width
        count = np.uint64(min(lines.width, lines.together - first))
        begin = group * lines.group + first
        for k in range(lines.rows):
            row, source = np.uint64(k * lines.width), np.uint64(begin + k * lines.stride)
            for c in range(count):
                work[row + c] = number(x[source + c]) * signs[row + c]
        _butterfly(work, lines)
        for k in range(lines.rows):
            row, target = np.uint64(k * lines.width), np.uint64(begin + k * lines.stride)
            for c in range(count):
                word = narrowed(work[row + c] * factor, like)
                out[target + c] = word
                found = max(found, unsigned(word) if unsigned(word) <= most else like)
    return magnitude(found)


def _everywhere(signs: np.ndarray, rows: int, width: int) -> np.ndarray:
    """A line's signs for each element of the workspace."""
    return np.tile(signs, width // len(signs)) if rows == 1 else np.repeat(signs, width)


@lru_cache(maxsize=64)
def _constant_signs(spec: FormatSpec, rows: int, width: int) -> np.ndarray:
    signs = hadamard.signs_of(spec, None, torch.empty(0, device="cpu"))
    of_line = np.ones(hadamard.size_of(spec), np.float32) if signs is None else signs.numpy()
    return _everywhere(of_line, rows, width)


def transformed(
    x: Tensor, spec: FormatSpec, axis: int, draw: Draw | None, counted: str = ALL
) -> tuple[Tensor, int | None]:
    """As hadamard.transformed, of a spec that has a transform whose size divides the axis (>= 0); and the fp32 bits of
    the result's largest magnitude among those that count, a key of MOST, unless they have to be looked for."""
    if flushes() or not x.numel():
        return hadamard.reference(x, spec, axis, draw), None
    x = x.contiguous()
    out = room_like(x if spec.hadamard_out != "fp32" else x.to(torch.float32, memory_format=torch.contiguous_format))
    size = hadamard.size_of(spec)
    lines = _lines(x.shape, axis, size)
    if spec.signs == "random":
        assert draw is not None
        signs = _everywhere(random_signs(size, draw, x.device).numpy(), lines.rows, lines.width)
    else:
        signs = _constant_signs(spec, lines.rows, lines.width)
    work = memory(x, x.numel()), memory(out, out.numel()), signs, np.float32(size**-0.5), lines
    most, kind = MOST[out.dtype][counted], (x.dtype, out.dtype)

    def pieces(start: int, stop: int) -> int:
        return int(_transform(kind, *work, most, start, stop))

    return out, max(in_pieces(pieces, lines.groups * -(-lines.together // lines.width), x.numel()))
