"""Grouped queries with multi-latent attention.

Severity: error

Why: validate_args asserts that they exclude each other

Fix: take --group-query-attention out

Releases: 0.16 and later

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.has("--multi-latent-attention") and case.has("--group-query-attention") and case.at_least("0.16"):
        yield Hit("--group-query-attention excludes --multi-latent-attention", ("--group-query-attention",))
