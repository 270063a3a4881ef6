"""Transformer Engine's own recipe and a linear format together.

Severity: error

Why: both would quantize the same products; quantctl refuses such a run before its first step

Fix: drop --fp8-format, or set linear to none

Releases: all

Evidence: run on 0.16.1: refused when the model is built
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import TE, Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.who import PRECISION_FILE, never_run, te_recipe


def check(case: Case) -> Iterator[Hit]:
    if case.implementation != TE or "linear" not in case.quantized or "linear" in never_run(case):
        return
    asked = f"linear={case.quantized['linear']}"
    if recipe := te_recipe(case):
        flags = tuple(flag for flag in ("--fp8-format", "--fp4-format") if case.has(flag))
        yield Hit(f"{asked} and Transformer Engine's own recipe ({recipe}) ask for the same products", flags)
    elif case.has(PRECISION_FILE):
        message = f"{asked}: a module that {case.text(PRECISION_FILE) or PRECISION_FILE} names as well is refused"
        yield Hit(message, (PRECISION_FILE,), Severity.NOTE)
