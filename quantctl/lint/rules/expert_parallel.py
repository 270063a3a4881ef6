"""Experts that expert parallelism cannot share out.

Severity: error

Why: every rank holds the same number of experts; the layer asserts that it divides

Fix: make --num-experts a multiple of --expert-model-parallel-size

Releases: all

Evidence: core/transformer/moe/moe_layer.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    experts, parallel = case.size("--num-experts"), case.size("--expert-model-parallel-size")
    if experts and parallel and experts % parallel:
        yield Hit(
            f"--num-experts {experts} is no multiple of {parallel} expert-parallel ranks",
            ("--num-experts", "--expert-model-parallel-size"),
        )
