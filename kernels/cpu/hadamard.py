"""The Hadamard transform of formats/hadamard.py on a CPU, each sum and product as there.

What is transformed together lies in the rows of a workspace, side by side with others, so that sums are of whole rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels.cpu.compiled import Kernel
from quantctl.kernels.cpu.rest import flushes
from quantctl.kernels.cpu.room import room_like
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.cpu.words import ALL, MOST, magnitude, memory, narrowed, number, unsigned, words_of
from quantctl.kernels.formats import hadamard
from quantctl.kernels.philox import Draw, random_signs
from quantctl.spec import FormatSpec

_WORKSPACE = 8192
"""Elements: 32 KiB, which the first cache holds."""


class _Lines(NamedTuple):
    """`size` elements, `step` apart, are transformed together; `together` such lines, `stride` apart, lie side by side,
    and so do `groups` times those, `group` elements apart."""

    size: Any
    step: Any
    together: Any
    stride: Any
    groups: Any
    group: Any


def _lines(shape: torch.Size, axis: int, size: int) -> _Lines:
    """Of a contiguous tensor."""
    inner = shape[axis + 1 :].numel()
    blocks = shape.numel() // (size * inner)
    return _Lines(size, 1, blocks, size, 1, 0) if inner == 1 else _Lines(size, inner, inner, 1, blocks, size * inner)


@Kernel
def _transform(
    source_of: Any, target_of: Any, signs: Any, factor: Any, lines: Any, width: Any, most: Any, start: Any, stop: Any
) -> Any:
    """Pieces start .. stop, each of up to `width` lines of a group. x, out: memory.

    Returns the fp32 bits of the largest magnitude of the results; most: the largest word that counts, without a sign.
    """
    x, out = words_of(source_of), words_of(target_of)
    work = np.empty((lines.size, width), np.float32)
    like = out.dtype.type(0)
    found = like
    pieces = (lines.together + width - 1) // width
    for piece in range(start, stop):
        group, first = divmod(piece, pieces)
        first *= width
        count = np.uint64(min(width, lines.together - first))
        at = group * lines.group + first * lines.stride
        for k in range(lines.size):
            row = work[k]
            source, sign = np.uint64(at + k * lines.step), signs[k]
            if lines.stride == 1:
                for c in range(count):
                    row[c] = number(x[source + c]) * sign
            else:
                for c in range(count):
                    row[c] = number(x[source + c * np.uint64(lines.stride)]) * sign
        apart = 1
        while apart < lines.size:
            for k in range(lines.size):
                if k & apart == 0:
                    upper, lower = work[k], work[k + apart]
                    for c in range(count):
                        a, b = upper[c], lower[c]
                        upper[c], lower[c] = a + b, a - b
            apart *= 2
        for k in range(lines.size):
            row = work[k]
            target = np.uint64(at + k * lines.step)
            if lines.stride == 1:
                for c in range(count):
                    word = narrowed(row[c] * factor, like)
                    out[target + c] = word
                    found = max(found, unsigned(word) if unsigned(word) <= most else like)
            else:
                for c in range(count):
                    word = narrowed(row[c] * factor, like)
                    out[target + c * np.uint64(lines.stride)] = word
                    found = max(found, unsigned(word) if unsigned(word) <= most else like)
    return magnitude(found)


@lru_cache(maxsize=16)
def _constant_signs(spec: FormatSpec) -> np.ndarray:
    signs = hadamard.signs_of(spec, None, torch.empty(0))
    return np.ones(hadamard.size_of(spec), np.float32) if signs is None else signs.numpy()


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
    width = min(_WORKSPACE // size, lines.together)
    if spec.signs == "random":
        assert draw is not None
        signs = random_signs(size, draw, x.device).numpy()
    else:
        signs = _constant_signs(spec)
    work = memory(x, x.numel()), memory(out, out.numel()), signs, np.float32(size**-0.5), lines, width
    most, kind = MOST[out.dtype][counted], (x.dtype, out.dtype)

    def pieces(start: int, stop: int) -> int:
        return int(_transform(kind, *work, most, start, stop))

    return out, max(in_pieces(pieces, lines.groups * -(-lines.together // width), x.numel()))
