"""Experts without Transformer Engine.

Severity: error

Why: the router asks for a name that only Transformer Engine's import binds

Fix: quantctl patch puts the patch in; quantctl exec does it for its own copy of the tree

Releases: 0.13 - 0.16

Evidence: run: NameError te_general_gemm
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules._layers import patched, te_is_there


def check(case: Case) -> Iterator[Hit]:
    inside = case.at_least("0.13") and not case.at_least("0.17")
    if case.local and case.is_megatron and case.has("--num-experts") and inside and not te_is_there(case):
        message = "experts without Transformer Engine: the router stops at a NameError, te_general_gemm"
        absent = case.importable("transformer_engine") is False
        for hit in patched(case, "moe_without_te", message, "--num-experts", True):
            yield Hit(hit.message, hit.parameters, hit.severity if absent else Severity.WARNING)
