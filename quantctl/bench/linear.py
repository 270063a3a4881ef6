"""Linear layers, forward and backward: quantized against bf16 and against microxcaling's Linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from quantctl.bench import peers
from quantctl.bench.compare import check
from quantctl.bench.machine import Setting, environment
from quantctl.bench.result import Failure, Measured, Outcome, Ratio, Row
from quantctl.bench.timing import Stopwatch, Work, effort, failure_of, free_memory, measure, stopwatch
from quantctl.bench.work import LinearShape
from quantctl.kernels.dispatch import CPU, REFERENCE, VARIABLE, family
from quantctl.kernels.products import reuse
from quantctl.kernels.products.linear import quantized_linear

SHAPES: dict[LinearShape, tuple[str, float | None]] = {
    LinearShape(8192, 4096, 28672): ("Llama-8B gate and up", 1.00),
    LinearShape(8192, 4096, 6144): ("Llama-8B QKV", 1.00),
    LinearShape(8192, 14336, 4096): ("Llama-8B down", 1.03),
    LinearShape(8192, 4096, 4096): ("Llama-8B attention output", None),
    LinearShape(8192, 2048, 16384): ("Llama-1B gate and up", None),
    LinearShape(8192, 2048, 3072): ("Llama-1B QKV", None),
    LinearShape(8192, 8192, 2048): ("Llama-1B down", None),
    LinearShape(8192, 2048, 2048): ("Llama-1B attention output", None),
}
"""Shape -> layer, and the time that is promised, as a multiple of the bf16 linear's."""
SPECS = ("mxfp8", "mxfp4", "hifp8")
FASTER_THAN_MICROXCALING = 6.0
REDUCTION = 16
"""What each dimension is divided by on a CPU."""
BF16 = "bf16"


def shapes(setting: Setting) -> dict[LinearShape, tuple[str, float | None]]:
    """The cases of a run."""
    chosen = dict(list(SHAPES.items())[:3]) if setting.quick else SHAPES
    if setting.full:
        return chosen
    return {LinearShape(*(n // REDUCTION for n in shape)): (layer, None) for shape, (layer, _) in chosen.items()}


def _operands(shape: LinearShape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """X, W and dY in bf16: normal values, as large as in a model."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        return (torch.randn(rows, columns, generator=generator, device=device) * scale).to(torch.bfloat16)

    x = normal(shape.tokens, shape.inputs, 1.0).requires_grad_()
    weight = normal(shape.outputs, shape.inputs, 0.02).requires_grad_()
    return x, weight, normal(shape.tokens, shape.outputs, 1e-3)


def _step(forward: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Y, dX, dW."""
    y = forward(x)
    return (y, *torch.autograd.grad(y, (x, weight), grad))


Step = Callable[[], tuple[Tensor, ...]]


def _by_reference(step: Step) -> Step:
    def run() -> tuple[Tensor, ...]:
        with environment(**{VARIABLE: REFERENCE}):
            return step()

    return run


def _steps(shape: LinearShape, setting: Setting) -> dict[str, Step]:
    """Subject -> one forward and backward."""
    x, weight, grad = _operands(shape, setting.device)
    forwards: dict[str, Callable[[Tensor], Tensor]] = {BF16: partial(linear, weight=weight)}
    for spec in ("mxfp8",) if setting.quick else SPECS:
        forwards[spec] = partial(quantized_linear, weight=weight, bias=None, spec=spec)
    steps: dict[str, Step] = {name: partial(_step, forward, x, weight, grad) for name, forward in forwards.items()}
    if family(setting.device) == CPU:
        steps |= {f"torch reference, {name}": _by_reference(steps[name]) for name in SPECS if name in steps}
    for name, layer in peers.microxcaling_linears(weight).items():
        steps[name] = partial(_step, layer, x, layer.get_parameter("weight"), grad)
    return steps


def rows(setting: Setting, say: Callable[[str], None]) -> Iterator[Row]:
    """For each shape bf16 first. The weight is quantized anew in every call."""
    watch = stopwatch(setting.device)
    with environment(**{reuse.VARIABLE: "0"}):
        for shape, (layer, limit) in shapes(setting).items():
            yield from _shape_rows(shape, layer, limit, setting, watch, say)
            free_memory()


def _shape_rows(
    shape: LinearShape,
    layer: str,
    limit: float | None,
    setting: Setting,
    watch: Stopwatch,
    say: Callable[[str], None],
) -> Iterator[Row]:
    case = f"{shape} ({layer})"
    try:
        steps = _steps(shape, setting)
    except torch.cuda.OutOfMemoryError as error:
        yield Row.of(failure_of(error), bench="linear", case=case, subject=BF16, peer=True)
        return
    works = {name: Work(step) for name, step in steps.items()}
    outcomes = measure(works, watch, effort(setting), lambda name: say(f"{case}, {name}"))
    for name, outcome in outcomes.items():
        facts: dict[str, Any] = {}
        peer = name not in SPECS
        if not peer:
            facts["bytes of quantization"] = shape.qdq_bytes(name)
            if isinstance(outcome, Measured):
                facts |= check(steps[name], setting.device)
        row = Row.of(
            outcome,
            amount=shape.flops,
            unit="TFLOP/s",
            bench="linear",
            case=case,
            subject=name,
            facts=facts,
            peer=peer,
        )
        yield replace(row, ratios=_ratios(name, outcome, outcomes, limit if not peer else None, setting))


def _ratios(
    name: str, outcome: Outcome, outcomes: dict[str, Outcome], limit: float | None, setting: Setting
) -> tuple[Ratio, ...]:
    base = outcomes[BF16]
    if name == BF16 or isinstance(outcome, Failure) or isinstance(base, Failure):
        return ()
    found = [Ratio("time of bf16", outcome.time.median / base.time.median, limit)]
    peer = [o.time.median for n, o in outcomes.items() if n.startswith("microxcaling") and isinstance(o, Measured)]
    if peer and name in SPECS:
        faster = FASTER_THAN_MICROXCALING if setting.full else None
        found.append(Ratio("times faster than microxcaling", min(peer) / outcome.time.median, faster, at_least=True))
    return tuple(found)
