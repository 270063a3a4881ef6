"""Whether every compiled kernel gives the reference's bits: small tensors of every size of number, one row a case.

Expected is what the reference computes on the CPU from the same values, whatever device is judged. One part at a time
(PARTS): a kernel that breaks its process leaves the other parts to be judged in theirs. Attention, whose products add
in another order, is judged by its distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from quantctl.bench.compare import same_bits
from quantctl.bench.machine import Setting, environment
from quantctl.bench.result import EQUAL, Failure, Row
from quantctl.bench.timing import failure_of
from quantctl.kernels import dispatch
from quantctl.kernels.formats.hadamard import size_of
from quantctl.kernels.formats.quantize import quantize_dequantize_along
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.fused_pv import attention_pv
from quantctl.kernels.products.grouped_packed import dequantize_rows, quantize_rows_packed
from quantctl.kernels.products.grouped_quantize import quantize_rows, quantize_stack
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.packed import dequantize, quantize_dequantize_packed
from quantctl.spec import parse

SPECS = (
    "mxfp8",
    "mxfp4",
    "nvfp4",
    "hifp8",
    "mxfp4:round=stochastic",
    "hifp8:scale=tensor",
    "mxfp6",
    "mxfp8:elem=e5m2,scale=floor,round=away",
    "nvfp4:round=stochastic",
    "hifp8:round=stochastic",
)
QUICK = SPECS[:6]
LATER = (
    "fp8:block=1x128",
    "fp8",
    "nvfp4:scale=multiply,block=16x16",
    "nvfp4:scale=multiply,round=stochastic,headroom=16/17",
    "fp8:block=128x128,scale=pow2",
    "mxfp8:block=32x32",
    "mxfp4:scale=floor,round=stochastic,headroom=3/4",
    "int8",
    "hifp4",
    "nvfp4:scale=4over6",
    "hifp8:scale=fp32,target=224",
    "int8:block=32x32",
    "nvfp4:scale=4over6_mse,block=16x16",
    "fp8:block=row,elem=e5m2",
    "hifp4:round=stochastic",
)
"""Blocks, scales and formats beside the first ones."""
TRANSFORMED = (
    "nvfp4:hadamard=16,signs=fixed",
    "mxfp4:hadamard=32,signs=random,round=stochastic",
    "int8:hadamard=64,hadamard_out=fp32",
    "nvfp4:extent=row,hadamard=16",
)
"""Behind a transform, which attention has none of here."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FAR = 0.03
"""Relative error of an attention's result or gradient, bf16, that is no matter of rounding."""
GROUPS = [30, 0, 33, 1]

Results = list[Tensor]
Case = tuple[str, str, Callable[[torch.device], Results]]
"""Case and subject of the row, and what is compared."""


def _values(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Numbers of every size, NaN, Inf and subnormal ones among them: random bits, and rows of normal values."""
    generator = torch.Generator().manual_seed(7)
    bits = torch.randint(-(2**31), 2**31, (rows, columns), generator=generator).to(torch.int32)
    patterns = bits.view(dtype) if dtype == torch.float32 else bits.to(torch.int16).view(dtype)
    finite = torch.where(patterns.isfinite(), patterns, 0)
    normal = torch.randn(rows, columns, generator=generator).to(dtype)
    return torch.cat([patterns, finite, normal])


def _draws(text: str, count: int) -> tuple[Draw | None, ...]:
    return _two_draws(text)[:count]


def _two_draws(text: str) -> tuple[Draw | None, Draw | None]:
    return (Draw(5, 77, 3), Draw(5, 78, 3)) if "stochastic" in text else (None, None)


def _size(text: str, columns: int) -> tuple[int, int]:
    """Tails, but where a transform divides the axes."""
    return (64, 128) if "hadamard" in text else (33, columns)


def _qdq(text: str, axes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Results:
    x = _values(*_size(text, 130), dtype).to(device)
    return quantize_dequantize_along(x, text, axes, _draws(text, len(axes)))


def _packed(text: str, axis: int, device: torch.device) -> Results:
    x = _values(*_size(text, 72), torch.bfloat16).to(device)
    values, packed, layout = quantize_dequantize_packed(x, parse(text), axis, _two_draws(text))
    return [values, *(t for t in packed if t is not None), dequantize(packed, layout)]


def _grouped(text: str, axis: int, device: torch.device) -> Results:
    rows, columns = (64, 128) if "hadamard" in text else (20, 72)
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(count, columns, generator=generator).to(torch.bfloat16) for count in (sum(GROUPS), 3 * rows)]
    x, weights = (tensor.to(device) for tensor in made)
    groups, spec, draws = Groups.of(GROUPS, len(x), device), parse(text), _two_draws(text)
    values, packed, layout = quantize_rows_packed(x, groups, spec, axis, draws)
    restored = dequantize_rows(packed, layout, groups.filled(size_of(spec) if axis == 0 else 1))
    stack = quantize_stack(list(weights.view(3, rows, columns)), spec, (1, 0), draws)
    return [values, packed.elements, restored, *quantize_rows(x, groups, spec, (1, 0), draws), *stack]


def _attention(text: str, device: torch.device) -> Results:
    generator = torch.Generator().manual_seed(2)
    sizes = ((100, 2, 4, 64), (100, 2, 2, 64), (100, 2, 2, 64))
    made = [torch.randn(size, generator=generator).to(torch.bfloat16).to(device).requires_grad_() for size in sizes]
    out = attention_pv(*made, scale=0.125, causal=True, pv=text)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), made)]


def _cases(part: str, quick: bool) -> Iterator[Case]:
    specs: tuple[str, ...] = (QUICK if quick else SPECS) + (LATER[:8] if quick else LATER)
    if part != "attention":
        specs += TRANSFORMED[:2] if quick else TRANSFORMED
    if part == "qdq":
        for dtype in DTYPES:
            kind = str(dtype).removeprefix("torch.")
            for text in specs if dtype == torch.bfloat16 or not quick else specs[:3]:
                yield f"{kind}, both axes in one pass", text, partial(_qdq, text, (1, 0), dtype)
        for axis in (1, 0):
            for text in specs:
                yield f"bfloat16, axis {axis}", text, partial(_qdq, text, (axis,), torch.bfloat16)
    elif part == "attention":
        for text in ("none", *specs[:4], "int8", "nvfp4:scale=4over6", "fp8"):
            yield "distance", f"pv={text}", partial(_attention, text)
    else:
        run = {"packed": _packed, "grouped": _grouped}[part]
        for axis in (0, 1):
            for text in specs:
                yield f"{part}, axis {axis}", text, partial(run, text, axis)


PARTS = ("qdq", "packed", "grouped", "attention")
"""The last one is judged by its distance."""


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in pairs)


def _judged(row: Row, run: Callable[[torch.device], Results], device: torch.device) -> Row:
    found = [result.cpu() for result in run(device)]
    with environment(**{dispatch.VARIABLE: dispatch.REFERENCE}):
        expected = run(torch.device("cpu"))
    if row.case.startswith(PARTS[-1]):
        distance = _distance(found, expected)
        far = Failure(f"relative error {distance:.3g}, more than {FAR}") if not distance <= FAR else None
        return replace(row, facts={"relative error": distance}, failure=far)
    equal = all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
    return replace(row, facts={EQUAL: equal})


def rows(setting: Setting, say: Callable[[str], None], part: str) -> Iterator[Row]:
    """part: one of PARTS."""
    for case, subject, run in _cases(part, setting.quick):
        say(f"{case}, {subject}")
        row = Row(bench="equality", case=f"{part}: {case}", subject=subject)
        try:
            yield _judged(row, run, setting.device)
        except Exception as error:
            yield replace(row, failure=failure_of(error))
