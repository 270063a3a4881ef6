"""Multi-latent attention without --rotary-scaling-factor.

Severity: warning

Why: the command line's default is 1.0, not DeepSeek's 40

Fix: add --rotary-scaling-factor 40

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._models import yarn


def check(case: Case) -> Iterator[Hit]:
    if yarn(case) and case.has("--rotary-scaling-factor") is False:
        yield Hit("--rotary-scaling-factor is missing: 1.0 is the default, and YaRN extends nothing",
                  ("--rotary-scaling-factor",))  # fmt: skip
