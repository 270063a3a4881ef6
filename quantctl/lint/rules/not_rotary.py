"""Rotary flags without rotary positions.

Severity: warning

Why: positions are learned by default: the flags are parsed and unused

Fix: add --position-embedding-type rope

Releases: all

Evidence: training/arguments.py: the default is learned_absolute
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    given = [name for name in ("--rotary-base", "--rotary-percent", "--use-rope-scaling") if case.has(name)]
    if given and case.rope is False:
        kind = case.text("--position-embedding-type")
        yield Hit(f"{', '.join(given)} with {kind} positions changes nothing", (*given, "--position-embedding-type"))
