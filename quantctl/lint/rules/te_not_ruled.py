"""Options of Transformer Engine's layers that no selector rules.

Severity: error

Why: the products are computed where no selector is; quantctl refuses such a run before its first step

Fix: drop the flag, or set the selector to none

Releases: all

Evidence: run on 0.16.1: refused when the model is built
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import TE, Case
from quantctl.lint.rule import Hit
from quantctl.lint.who import never_run

LINEAR = (
    "--delay-wgrad-compute",
    "--tp-comm-overlap",
    "--symmetric-ar-type",
    "--use-transformer-engine-op-fuser",
)
ATTENTION = (
    "--window-size",
    "--qk-clip",
    "--log-max-attention-logit",
    "--fp8-dot-product-attention",
    "--fp8-multi-head-attention",
)


def check(case: Case) -> Iterator[Hit]:
    if case.implementation != TE:
        return
    ruled = [role for role in case.quantized if role not in never_run(case)]
    given = [flag for flag in LINEAR if "linear" in ruled and case.has(flag)]
    if {"qk", "pv"} & set(ruled):
        given += [flag for flag in ATTENTION if case.has(flag)]
        given += ["--context-parallel-size"] if (case.size("--context-parallel-size") or 1) > 1 else []
        given += ["--softmax-type"] if case.text("--softmax-type") not in (None, "vanilla") else []
    for flag in given:
        roles = ("linear",) if flag in LINEAR else ("qk", "pv")
        asked = ", ".join(f"{role}={case.quantized[role]}" for role in roles if role in ruled)
        yield Hit(f"{asked}: what {flag} asks for is Transformer Engine's alone", (flag,))
