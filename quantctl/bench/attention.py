"""Attention, forward and backward: SDPA's backends one by one, Megatron's unfused flow, the fused quantized ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from quantctl.bench.machine import Setting
from quantctl.bench.result import Failure, Measured, Outcome, Ratio, Row
from quantctl.bench.timing import Stopwatch, Work, effort, failure_of, free_memory, measure, stopwatch
from quantctl.bench.work import AttentionShape
from quantctl.kernels.products.attention import pv as product_pv
from quantctl.kernels.products.attention import qk as product_qk
from quantctl.kernels.products.fused_attention import fused_attention

SHAPES = (AttentionShape(2048, 32, 8, 128), AttentionShape(8192, 32, 8, 128))
REDUCED = (AttentionShape(256, 8, 2, 64), AttentionShape(512, 8, 2, 64))
SPECS = ("mxfp8", "mxfp4", "hifp8")
FLASH = "SDPA FlashAttention"
BACKENDS = {
    FLASH: SDPBackend.FLASH_ATTENTION,
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}
ON_CPU = (FLASH, "SDPA math")
UNFUSED = "unfused bf16"
MASKED = -10000.0
"""What Megatron writes over masked scores."""

# whether PV is quantized -> (time of the fastest SDPA, times faster than the unfused flow, memory of that SDPA)
LIMITS = {False: (1.04, 10.0, 1.35), True: (1.6, 10.0, 1.35)}
FASTER_THAN_FLASH = 1.0
"""Time of SDPA's FlashAttention, with QK and PV quantized."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""[s, b, heads, d], [s, b, groups, d] twice -> [s, b, heads, d]."""


def _sdpa(q: Tensor, k: Tensor, v: Tensor, *, backend: SDPBackend, expand: bool) -> Tensor:
    if expand:
        k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], dim=2) for t in (k, v))
    q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not expand)
    return out.permute(2, 0, 1, 3)


def _unfused(q: Tensor, k: Tensor, v: Tensor, *, qk: str, pv: str) -> Tensor:
    """The flow of megatron/core/transformer/dot_product_attention.py without dropout, its softmax in bf16."""
    s, b, heads, d = q.shape
    k, v = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (k, v))
    query, key, value = (t.reshape(s, b * heads, d) for t in (q, k, v))
    scores = product_qk(query.transpose(0, 1), key.permute(1, 2, 0), d**-0.5, qk).view(b, heads, s, s)
    mask = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    probs = scores.masked_fill_(mask, MASKED).softmax(dim=-1).view(b * heads, s, s)
    context = product_pv(probs, value.transpose(0, 1), pv)
    return context.view(b, heads, s, d).permute(2, 0, 1, 3)


def _tensors(shape: AttentionShape, device: torch.device) -> tuple[Tensor, ...]:
    """Q, K, V and dO in bf16."""
    generator = torch.Generator(device).manual_seed(0)
    heads = (shape.heads, shape.groups, shape.groups, shape.heads)
    made = (torch.randn(shape.sequence, 1, n, shape.head_dim, generator=generator, device=device) for n in heads)
    q, k, v, grad = (t.to(torch.bfloat16) for t in made)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad


def _step(attention: Attention, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """O, dQ, dK, dV."""
    q, k, v, grad = tensors
    out = attention(q, k, v)
    return (out, *torch.autograd.grad(out, (q, k, v), grad))


def _sdpa_subjects(shape: AttentionShape, setting: Setting) -> dict[str, partial[Tensor]]:
    """K and V are expanded for the backends that cannot share them between heads."""
    probe = _tensors(shape._replace(sequence=64), setting.device)
    found: dict[str, partial[Tensor]] = {}
    for name, backend in BACKENDS.items():
        if not setting.full and name not in ON_CPU:
            continue
        shared = partial(_sdpa, backend=backend, expand=False)
        try:
            _step(shared, probe)
            found[name] = shared
        except RuntimeError:
            found[f"{name}, K and V expanded"] = partial(_sdpa, backend=backend, expand=True)
    return found


def _fused_name(qk: str, pv: str) -> str:
    return f"fused qk={qk}" + (f" pv={pv}" if pv != "none" else "")


def _subjects(shape: AttentionShape, setting: Setting) -> dict[str, partial[Tensor]]:
    found = _sdpa_subjects(shape, setting)
    found[UNFUSED] = partial(_unfused, qk="none", pv="none")
    for spec in ("mxfp8",) if setting.quick else SPECS:
        for pv in ("none", spec):
            scale = shape.head_dim**-0.5
            found[_fused_name(spec, pv)] = partial(fused_attention, scale=scale, causal=True, qk=spec, pv=pv)
    return found


def rows(setting: Setting, say: Callable[[str], None]) -> Iterator[Row]:
    """For each length SDPA first. The fused rows of the shorter length are compared with the unfused flow."""
    watch = stopwatch(setting.device)
    shapes = SHAPES if setting.full else REDUCED
    for shape in shapes[:1] if setting.quick and not setting.full else shapes:
        yield from _shape_rows(shape, setting, watch, say, compare=shape is shapes[0])
        free_memory()


def _shape_rows(
    shape: AttentionShape, setting: Setting, watch: Stopwatch, say: Callable[[str], None], *, compare: bool
) -> Iterator[Row]:
    tensors = _tensors(shape, setting.device)
    subjects = _subjects(shape, setting)
    works = {name: Work(partial(_step, attention, tensors)) for name, attention in subjects.items()}
    outcomes = measure(works, watch, effort(setting), lambda name: say(f"{shape}, {name}"))
    for name, outcome in outcomes.items():
        fused = name.startswith("fused")
        facts: dict[str, Any] = {}
        if fused and compare and isinstance(outcome, Measured):
            facts["relative error to unfused"] = _errors(subjects[name], tensors)
        row = Row.of(
            outcome,
            amount=shape.flops,
            unit="TFLOP/s",
            bench="attention",
            case=str(shape),
            subject=name,
            facts=facts,
            peer=not fused,
        )
        if row.peak_bytes is not None:
            row = replace(row, peak_bytes=row.peak_bytes + shape.input_bytes)
        yield replace(row, ratios=_ratios(name, outcome, outcomes, shape, setting))


def _errors(fused: partial[Tensor], tensors: tuple[Tensor, ...]) -> dict[str, float] | str:
    """||fused - unfused|| / ||unfused|| of O, dQ, dK and dV, the unfused flow with the same formats."""
    unfused = partial(_unfused, qk=fused.keywords["qk"], pv=fused.keywords["pv"])
    try:
        pairs = zip(("O", "dQ", "dK", "dV"), _step(fused, tensors), _step(unfused, tensors), strict=True)
        return {name: ((a.float() - b.float()).norm() / b.float().norm()).item() for name, a, b in pairs}
    except torch.cuda.OutOfMemoryError as error:
        return failure_of(error).reason


def _fastest_sdpa(outcomes: dict[str, Outcome]) -> Measured | None:
    measured = [o for name, o in outcomes.items() if name.startswith("SDPA") and isinstance(o, Measured)]
    return min(measured, key=lambda o: o.time.median, default=None)


def _ratios(
    name: str, outcome: Outcome, outcomes: dict[str, Outcome], shape: AttentionShape, setting: Setting
) -> tuple[Ratio, ...]:
    fastest = _fastest_sdpa(outcomes)
    if isinstance(outcome, Failure) or fastest is None:
        return ()
    promised = setting.full and name.startswith("fused")
    quantized_pv = " pv=" in name
    time, speedup, memory = LIMITS[quantized_pv] if promised else (None, None, None)
    milliseconds = outcome.time.median
    found = [Ratio("time of the fastest SDPA", milliseconds / fastest.time.median, time)]
    unfused = outcomes.get(UNFUSED)
    flash = next((o for name, o in outcomes.items() if name.startswith(FLASH)), None)
    if quantized_pv and isinstance(flash, Measured):
        limit = FASTER_THAN_FLASH if promised else None
        found.append(Ratio(f"time of {FLASH}", milliseconds / flash.time.median, limit))
    if isinstance(unfused, Measured) and name != UNFUSED:
        ratio = unfused.time.median / milliseconds
        found.append(Ratio("times faster than unfused bf16", ratio, speedup, at_least=True))
    if outcome.peak_bytes is not None and fastest.peak_bytes is not None:
        ratio = (outcome.peak_bytes + shape.input_bytes) / (fastest.peak_bytes + shape.input_bytes)
        found.append(Ratio("memory of that SDPA", ratio, memory))
    return tuple(found)
