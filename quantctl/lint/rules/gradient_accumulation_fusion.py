"""Gradient accumulation fusion without Apex's extension.

Severity: error

Why: ColumnParallelLinear raises RuntimeError. An error where the command is about to run, a note for a script

Fix: add the flag; or install the package

Releases: all

Evidence: core/tensor_parallel/layers.py; run
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import TE, Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._fusions import needs


def check(case: Case) -> Iterator[Hit]:
    flag = "--no-gradient-accumulation-fusion"
    # beside Transformer Engine's layers the output layer is one all the same
    fused = case.is_megatron and case.has(flag) is False
    there = case.implementation == TE and case.importable("fused_weight_gradient_mlp_cuda") is False
    if fused and (case.local or there):
        message = f"{flag} is missing: the fusion needs Apex's fused_weight_gradient_mlp_cuda"
        yield from needs(case, ("fused_weight_gradient_mlp_cuda",), message, flag)
