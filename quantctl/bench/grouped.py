"""The experts of an MoE layer: fc1, SwiGLU, fc2 as grouped products, forward and backward apart.

Routing, permutation and combination are not in it. Tokens go to random experts, so groups are uneven. With reuse the
quantized weights are those of the micro batch before, as in every micro batch of a step but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from quantctl.bench.compare import check
from quantctl.bench.machine import Setting, environment
from quantctl.bench.result import Failure, Measured, Outcome, Ratio, Row
from quantctl.bench.timing import Stopwatch, Work, effort, failure_of, free_memory, measure, stopwatch
from quantctl.bench.work import GroupedShape
from quantctl.kernels.products import reuse
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.grouped_gemm import rows_by_matrices
from quantctl.kernels.products.groups import Groups

PUBLISHED = {
    GroupedShape(4096, 64): (3.190, 6.363),
    GroupedShape(2048, 32): (1.851, 3.367),
    GroupedShape(8192, 64): (5.148, 8.964),
    GroupedShape(2048, 16): (1.613, 2.459),
    GroupedShape(16384, 64): (8.901, 14.90),
    GroupedShape(2048, 8): (1.663, 2.329),
}
"""Shape -> milliseconds of forward and backward in bf16 on an H100, as published."""
FASTER = 2.5
"""Than published, quantized and with reuse."""
SPECS = ("mxfp8", "mxfp4", "hifp8")
BF16 = "bf16"
REUSED = ", weights reused"
PARTS = ("forward", "backward")


def reduced(shape: GroupedShape) -> GroupedShape:
    """The same layer for a CPU."""
    return GroupedShape(shape.tokens // 32, max(shape.experts // 4, 3), shape.hidden // 16, shape.intermediate // 16, 3)


def _counts(shape: GroupedShape, device: torch.device) -> Tensor:
    """Tokens of each expert [experts]: every token goes to `top` different ones, drawn evenly."""
    generator = torch.Generator(device).manual_seed(0)
    draws = torch.rand(shape.tokens, shape.experts, generator=generator, device=device)
    return torch.bincount(draws.topk(shape.top, dim=1).indices.flatten(), minlength=shape.experts)


class _Experts:
    """One layer's weights, and its forward and backward in one format."""

    def __init__(self, shape: GroupedShape, device: torch.device, spec: str, keep: bool) -> None:
        generator = torch.Generator(device).manual_seed(1)

        def weights(rows: int, columns: int) -> list[Tensor]:
            """One an expert, as Megatron has them; for bf16 one [experts, rows, columns], which needs no copy."""
            size = (shape.experts, rows, columns)
            stack = (0.02 * torch.randn(size, generator=generator, device=device)).to(torch.bfloat16)
            parts = [stack] if spec == BF16 else [part.clone() for part in stack]
            return [part.requires_grad_() for part in parts]

        self.fc1, self.fc2 = weights(2 * shape.intermediate, shape.hidden), weights(shape.hidden, shape.intermediate)
        self.spec, self.keep = spec, keep

    def _linear(self, x: Tensor, weights: list[Tensor], groups: Groups) -> Tensor:
        if self.spec == BF16:
            return rows_by_matrices(x, weights[0].transpose(1, 2), groups)
        return grouped_linear(x, weights, groups, self.spec)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """x [rows, hidden] sorted by expert -> [rows, hidden]."""
        with environment(**{reuse.VARIABLE: str(int(self.keep))}):
            gate, up = self._linear(x, self.fc1, groups).chunk(2, dim=-1)
            return self._linear(silu(gate) * up, self.fc2, groups)

    def backward(self, y: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """dX, and the weights' gradients."""
        with environment(**{reuse.VARIABLE: str(int(self.keep))}):
            return torch.autograd.grad(y, (x, *self.fc1, *self.fc2), grad)


def _works(shape: GroupedShape, setting: Setting) -> dict[tuple[str, str], Work]:
    """(subject, part) -> what is timed."""
    generator = torch.Generator(setting.device).manual_seed(2)
    made = (torch.randn(shape.rows, shape.hidden, generator=generator, device=setting.device) for _ in range(2))
    x, grad = (t.to(torch.bfloat16) for t in made)
    x.requires_grad_()
    groups = Groups.of(_counts(shape, setting.device), shape.rows, setting.device)
    # kept results go by weight, so that each subject has weights of its own
    subjects = {BF16: _Experts(shape, setting.device, BF16, keep=False)}
    for spec in ("mxfp8",) if setting.quick else SPECS:
        subjects[spec] = _Experts(shape, setting.device, spec, keep=False)
        subjects[f"{spec}{REUSED}"] = _Experts(shape, setting.device, spec, keep=True)
    works = {}
    for name, experts in subjects.items():
        forward = partial(experts.forward, x, groups)
        works[name, "forward"] = Work(forward)
        works[name, "backward"] = Work(experts.backward, partial(_forward_and_more, forward, x, grad))
    return works


def _forward_and_more(forward: Callable[[], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return forward(), x, grad


def rows(setting: Setting, say: Callable[[str], None]) -> Iterator[Row]:
    """For each shape the forward of all subjects, then the backward; bf16 first."""
    watch = stopwatch(setting.device)
    shapes = list(PUBLISHED)[: 1 if setting.quick else None]
    for shape in shapes:
        yield from _shape_rows(shape if setting.full else reduced(shape), PUBLISHED[shape], setting, watch, say)
        reuse.forget()
        free_memory()


def _shape_rows(
    shape: GroupedShape,
    published: tuple[float, float],
    setting: Setting,
    watch: Stopwatch,
    say: Callable[[str], None],
) -> Iterator[Row]:
    try:
        works = _works(shape, setting)
    except torch.cuda.OutOfMemoryError as error:
        yield Row.of(failure_of(error), bench="grouped", case=str(shape), subject=BF16, peer=True)
        return
    for part, reference in zip(PARTS, published, strict=True):
        case = f"{shape}, {part}"
        chosen = {name: work for (name, of), work in works.items() if of == part}
        outcomes = measure(chosen, watch, effort(setting), partial(_say_case, say, case))
        checks = {
            name: check(partial(_both, work), setting.device)
            for name, work in chosen.items()
            if part == "backward" and name in SPECS and isinstance(outcomes[name], Measured)
        }
        for name, outcome in outcomes.items():
            row = Row.of(
                outcome,
                amount=shape.flops * (1 if part == "forward" else 2),
                unit="TFLOP/s",
                bench="grouped",
                case=case,
                subject=name,
                facts=_facts(shape, name, part) | checks.get(name, {}),
                peer=name == BF16,
            )
            yield replace(row, ratios=_ratios(name, outcome, outcomes[BF16], reference, setting))


def _both(work: Work) -> tuple[Tensor, ...]:
    """Output and gradients."""
    given = work.prepare()
    return given[0].detach(), *work.run(*given)


def _say_case(say: Callable[[str], None], case: str, name: str) -> None:
    say(f"{case}, {name}")


def _facts(shape: GroupedShape, name: str, part: str) -> dict[str, Any]:
    if name == BF16:
        return {}
    moved = shape.qdq_bytes(name.removesuffix(REUSED), reuse=name.endswith(REUSED))
    return {"bytes of quantization": moved[part]}


def _ratios(name: str, outcome: Outcome, bf16: Outcome, published: float, setting: Setting) -> tuple[Ratio, ...]:
    if isinstance(outcome, Failure):
        return ()
    found = []
    if setting.full:
        limit = FASTER if name.endswith(REUSED) else None
        found.append(Ratio("times faster than published bf16", published / outcome.time.median, limit, at_least=True))
    if name != BF16 and not isinstance(bf16, Failure):
        found.append(Ratio("time of bf16", outcome.time.median / bf16.time.median))
    return tuple(found)
