"""--save without --save-interval.

Severity: error

Why: validate_args asserts that a run which saves says how often

Fix: add --save-interval

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.is_megatron and case.has("--save") and case.has("--save-interval") is False:
        yield Hit("--save without --save-interval", ("--save",))
