"""Quantize-dequantize: each format along the last axis, the first, and both in one pass, against a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantctl.bench import peers
from quantctl.bench.compare import check
from quantctl.bench.machine import Setting, environment
from quantctl.bench.result import Measured, Outcome, Ratio, Row
from quantctl.bench.timing import Work, effort, measure, stopwatch
from quantctl.bench.work import qdq_bytes
from quantctl.kernels.dispatch import REFERENCE, VARIABLE, family
from quantctl.kernels.formats.quantize import quantize_dequantize_along
from quantctl.spec import parse

SIZE, REDUCED = 8192, 2048
SPECS = (
    "mxfp8",
    "mxfp8:elem=e5m2",
    "mxfp6",
    "mxfp4",
    "nvfp4",
    "hifp8",
    "fp8",
    "fp8:block=1x128",
    "nvfp4:scale=multiply,block=16x16",
    "hifp4",
    "nvfp4:scale=4over6",
    "mxfp4:hadamard=16",
)
QUICK = ("mxfp8", "hifp8")
AXES = {"last axis": (1,), "first axis": (0,), "both in one pass": (1, 0)}
LIMITS = {1: 0.95, 2: 0.93}
"""Of copy bandwidth, by the number of axes."""
PROMISED = ("mxfp8", "mxfp4", "hifp8")
COPY = "copy"
BYTES = "bytes an element"


def _peers(spec: str, setting: Setting) -> dict[str, peers.Quantizer]:
    reference = {} if setting.full else by_reference(spec)
    if spec not in ("mxfp8", "mxfp4"):
        return reference
    ao = peers.torchao_quantizers(spec, compiled=setting.full or not setting.quick)
    return reference | ao | peers.microxcaling_quantizers(spec, setting.device)


def by_reference(spec: str) -> dict[str, peers.Quantizer]:
    """The torch expressions, where kernels compute that a CPU would not need."""

    def quantize(x: Tensor) -> Tensor:
        with environment(**{VARIABLE: REFERENCE}):
            return quantize_dequantize_along(x, spec, (1,))[0]

    return {} if family(torch.device("cpu")) == REFERENCE else {"torch reference": quantize}


def rows(setting: Setting, say: Callable[[str], None]) -> Iterator[Row]:
    """The copy first; bytes are those that the task has to move, for peers as well."""
    size = SIZE if setting.full else REDUCED
    generator = torch.Generator(setting.device).manual_seed(0)
    x = torch.randn(size, size, generator=generator, device=setting.device).to(torch.bfloat16)
    target = torch.empty_like(x)
    specs = QUICK if setting.quick else SPECS
    works = {(COPY, ""): Work(partial(target.copy_, x))}
    for axis, axes in AXES.items():
        for spec in specs:
            works[spec, axis] = Work(partial(quantize_dequantize_along, x, spec, axes))
            if axes == (1,):
                peers_of = _peers(spec, setting).items()
                works |= {(f"{peer}, {spec}", axis): Work(partial(quantize, x)) for peer, quantize in peers_of}
    keys = {f"{subject} {axis}".strip(): (subject, axis) for subject, axis in works}
    watch = stopwatch(setting.device)
    outcomes = measure({name: works[key] for name, key in keys.items()}, watch, effort(setting), say)
    copy = Row.of(
        outcomes[COPY],
        amount=2 * x.nbytes,
        unit="GB/s",
        bench="qdq",
        case=f"{size} x {size} bf16",
        subject=COPY,
        facts={BYTES: {"read": x.element_size(), "written": x.element_size()}},
        peer=True,
    )
    yield copy
    for name, key in keys.items():
        if key[0] != COPY:
            yield _row(x, *key, outcomes[name], copy, setting)


def _row(x: Tensor, subject: str, axis: str, outcome: Outcome, copy: Row, setting: Setting) -> Row:
    peer = subject not in SPECS
    spec = subject.rpartition(", ")[2] if peer else subject
    axes = AXES[axis]
    read, written = qdq_bytes(x.numel(), parse(spec), len(axes), x.element_size())
    facts: dict[str, Any] = {BYTES: {"read": read // x.numel(), "written": written // x.numel()}}
    if not peer and isinstance(outcome, Measured):
        facts["kernels"] = family(x.device)
        facts |= check(partial(quantize_dequantize_along, x, spec, axes), x.device)
    row = Row.of(
        outcome,
        amount=read + written,
        unit="GB/s",
        bench="qdq",
        case=f"{copy.case}, {axis}",
        subject=subject,
        facts=facts,
        peer=peer,
    )
    if row.rate is None or copy.rate is None:
        return row
    promised = setting.full and not peer and parse(spec).format in PROMISED
    limit = LIMITS[len(axes)] if promised else None
    of_bandwidth = Ratio("of copy bandwidth", row.rate / copy.rate, limit, at_least=True)
    assert row.time is not None
    assert copy.time is not None
    return replace(row, ratios=(of_bandwidth, Ratio("times a copy", row.time.median / copy.time.median)))
