"""--moe-grouped-gemm with local layers.

Severity: error

Why: GroupedMLP calls gg.ops.gmm: no selector sees it, and it needs the package grouped_gemm

Fix: take --moe-grouped-gemm out

Releases: up to 0.16.1

Evidence: core/transformer/moe/experts.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

UNSEEN = True
"""Products that a selector names are computed past it, and the proof cannot notice: exec refuses the command."""


def check(case: Case) -> Iterator[Hit]:
    if not (case.local and case.is_megatron and case.has("--moe-grouped-gemm")) or case.at_least("0.17"):
        return
    flag = ("--moe-grouped-gemm",)
    if "linear" in case.quantized:
        yield Hit("--moe-grouped-gemm: the experts' products go past the linear selector", flag)
    elif case.importable("grouped_gemm") is False:
        yield Hit("--moe-grouped-gemm needs the package grouped_gemm, which is not installed", flag)
