"""--fp8-format or --fp4-format with local layers.

Severity: error

Why: nothing reads it there: the loss is the same with and without

Fix: take it out and use quantctl's selectors, or train with --transformer-impl transformer_engine

Releases: all

Evidence: run on 0.12.3, 0.16.1 and 0.19.0: identical losses
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.local and case.is_megatron and not case.has("--use-legacy-models"):
        for name in ("--fp8-format", "--fp4-format"):
            if case.has(name):
                yield Hit(f"{name} is ignored by the local layers: they train in the training dtype", (name,))
