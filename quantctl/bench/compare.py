"""Whether what was timed is right: the compiled kernels' results against the torch reference's, on the same device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantctl.bench.machine import environment
from quantctl.bench.result import EQUAL
from quantctl.bench.timing import failure_of, free_memory
from quantctl.kernels import dispatch


def equals_reference(run: Callable[[], Sequence[Tensor]]) -> bool | None:
    """Whether the bf16 results of `run` have the same bits with the reference; None where memory does not suffice.

    Products are the library's in both, so that equal operands give equal bits.
    """
    results = run()
    try:
        with environment(**{dispatch.VARIABLE: "reference"}):
            expected = run()
    except Exception as error:
        if not failure_of(error).excused:
            raise
        expected = None
    if expected is None:
        free_memory()
        return None
    return all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in zip(results, expected, strict=True))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same shape, dtype and bits; any NaN equals any NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    bits = torch.int32 if a.element_size() == 4 else torch.int16
    nan = a.isnan()
    return torch.equal(nan, b.isnan()) and torch.equal(*(t.masked_fill(nan, 0).view(bits) for t in (a, b)))


def check(run: Callable[[], Sequence[Tensor]], device: torch.device) -> dict[str, bool | str | None]:
    """The fact, where compiled kernels compute; nothing where the reference itself was timed.

    A comparison that fails is not an equal one: the reason comes with it.
    """
    if dispatch.family(device) == dispatch.REFERENCE:
        return {}
    try:
        return {EQUAL: equals_reference(run)}
    except Exception as error:
        return {EQUAL: False, "comparison": failure_of(error).reason}
