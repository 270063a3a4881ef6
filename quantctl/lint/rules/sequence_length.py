"""Sequences longer than the position embeddings.

Severity: error

Why: validate_args asserts it

Fix: raise --max-position-embeddings

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    sequence, most = case.size("--seq-length"), case.size("--max-position-embeddings")
    if sequence and most and most < sequence:
        yield Hit(f"--max-position-embeddings {most} is below --seq-length {sequence}", ("--max-position-embeddings",))
