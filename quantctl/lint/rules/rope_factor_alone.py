"""--rope-scaling-factor without --use-rope-scaling.

Severity: warning

Why: only --use-rope-scaling switches scaling on

Fix: add --use-rope-scaling

Releases: all

Evidence: core/models/gpt/gpt_model.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.has("--rope-scaling-factor") and case.has("--use-rope-scaling") is False:
        yield Hit("--rope-scaling-factor without --use-rope-scaling changes nothing", ("--rope-scaling-factor",))
