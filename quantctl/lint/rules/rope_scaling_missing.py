"""Llama 3.1 or 3.2 without rotary scaling.

Severity: warning

Why: the published models scale their frequencies

Fix: add --use-rope-scaling

Releases: all

Evidence: script/models.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._models import model


def check(case: Case) -> Iterator[Hit]:
    named = model(case)
    if named is not None and named[0].startswith("llama") and case.has("--use-rope-scaling") is False:
        yield Hit(
            "--use-rope-scaling is missing: Llama 3.1 and 3.2 scale their rotary frequencies", ("--use-rope-scaling",)
        )
