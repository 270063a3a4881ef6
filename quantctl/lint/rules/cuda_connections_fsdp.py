"""FSDP with CUDA_DEVICE_MAX_CONNECTIONS=1.

Severity: error

Why: validate_args asserts another value

Fix: unset CUDA_DEVICE_MAX_CONNECTIONS

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._parallel import FSDP, VARIABLE


def check(case: Case) -> Iterator[Hit]:
    value = case.command.environment.get(VARIABLE)
    for name in FSDP:
        if case.has(name) and case.is_megatron and value == "1":
            yield Hit(f"{name} with {VARIABLE}=1: validate_args asserts another value", (name,))
