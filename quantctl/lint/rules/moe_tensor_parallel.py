"""Experts with tensor parallelism but no sequence parallelism.

Severity: error

Why: MoELayer.forward raises ValueError in training

Fix: add --sequence-parallel, or use expert parallelism with --tensor-model-parallel-size 1

Releases: all

Evidence: core/transformer/moe/moe_layer.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    tensor = case.size("--tensor-model-parallel-size")
    if case.has("--num-experts") and tensor and tensor > 1 and case.has("--sequence-parallel") is False:
        message = f"experts with tensor parallelism {tensor} but no --sequence-parallel: MoELayer raises ValueError"
        yield Hit(message, ("--num-experts", "--tensor-model-parallel-size", "--sequence-parallel"))
