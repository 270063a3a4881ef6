"""Quantize-dequantize on a CPU: any format, scale rule, rounding and strides, one or two axes from one reading."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels.cpu import hifp8 as cpu_hifp8
from quantctl.kernels.cpu import mx as cpu_mx
from quantctl.kernels.cpu import nvfp4 as cpu_nvfp4
from quantctl.kernels.cpu import tiles
from quantctl.kernels.cpu.compiled import flat
from quantctl.kernels.cpu.noise import key
from quantctl.kernels.cpu.rounding import RULES
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.formats import mx
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import factors, has_tensor_scale
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import Matrices, matrices
from quantctl.spec import FormatSpec


@lru_cache(maxsize=64)
def _mx_numbers(spec: FormatSpec, dtype: torch.dtype) -> Any:
    format_ = FORMATS[spec.format]
    assert isinstance(format_, mx.MX)
    assert spec.scale is not None
    return cpu_mx.numbers(format_.elements[spec.elem], spec.scale, torch.finfo(dtype).max)


def _numbers(spec: FormatSpec, dtype: torch.dtype, scales: tuple[float, ...]) -> Any:
    largest = torch.finfo(dtype).max
    if spec.format == "nvfp4":
        return cpu_nvfp4.NVFP4Numbers(*map(np.float32, (*scales, largest)))
    if spec.format == "hifp8":
        return cpu_hifp8.numbers(scales[1], largest)
    return _mx_numbers(spec, dtype)


@lru_cache(maxsize=1024)
def geometry(launch: Matrices) -> tiles.Geometry:
    batch, m, n, _ = launch
    sizes = (batch.size, m.size, n.size, batch.x, m.x, batch.out, m.out, batch.number, m.number, n.number)
    return tiles.Geometry(*sizes)


def span(x: Tensor) -> int:
    """Elements of memory from x's first to its last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


def finite_amax(x: Tensor, g: tiles.Geometry) -> Tensor:
    """The largest finite magnitude, fp32 []."""
    work = partial(tiles.finite_amax, flat(x, span(x)), g)
    bits = in_pieces(work, int(g.batch * g.m), x.numel())
    return torch.tensor(max(map(int, bits)), dtype=torch.int32).view(torch.float32)


def _fits(launch: Matrices | None) -> bool:
    """Whether rows lie in one piece."""
    return launch is not None and (launch.n.size == 1 or launch.n.x == launch.n.out == 1)


def quantize_dequantize(
    x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: for each axis, where the spec rounds stochastically.
    """
    outs = [torch.empty_like(x) for _ in axes]
    if not x.numel():
        return outs
    format_ = FORMATS[spec.format]
    one_launch = len(axes) == len(set(axes)) in (1, 2)
    launch = matrices(x.shape, x.stride(), outs[0].stride(), axes) if one_launch else None
    if len(axes) != 1 and not (format_.has_blocks and _fits(launch)):
        return [quantize_dequantize(x, spec, (axis,), (draw,))[0] for axis, draw in zip(axes, draws, strict=True)]
    if launch is None or not _fits(launch):
        (result,) = quantize_dequantize(x.contiguous(), spec, axes, draws)
        return [outs[0].copy_(result)]
    g = geometry(launch)
    scales = tuple(t.item() for t in factors(finite_amax(x, g), spec)) if has_tensor_scale(spec) else (1.0, 1.0)
    # where the axis plays no role, rows serve every one
    roles = launch.roles if format_.has_blocks else ("last",)
    words = flat(x, span(x))
    results = dict(zip(roles, (flat(out, span(out)) for out in outs), strict=True))
    keys = {role: key(draw) for role, draw in zip(roles, draws, strict=True)}
    work = partial(
        tiles.quantize_dequantize,
        words,
        results.get("last", words[:0]),
        results.get("first", words[:0]) if format_.has_blocks else None,
        _numbers(spec, x.dtype, scales),
        format_.block or tiles.COLUMNS,
        RULES[str(spec.round)],
        keys.get("last", key(None)),
        keys.get("first", key(None)),
        g,
    )
    in_pieces(work, tiles.count(g), x.numel())
    return outs
