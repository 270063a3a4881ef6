"""Context parallelism with local layers.

Severity: error

Why: DotProductAttention asserts a context parallel size of 1

Fix: use tensor or pipeline parallelism

Releases: all

Evidence: core/transformer/dot_product_attention.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    context = case.size("--context-parallel-size")
    if case.local and case.is_megatron and context and context > 1:
        yield Hit(
            f"--context-parallel-size {context}: the local attention stops at an assert", ("--context-parallel-size",)
        )
