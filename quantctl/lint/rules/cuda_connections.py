"""Tensor or context parallelism without CUDA_DEVICE_MAX_CONNECTIONS=1.

Severity: warning

Why: the trainer stops at an assert on every GPU before Blackwell

Fix: export CUDA_DEVICE_MAX_CONNECTIONS=1

Releases: all

Evidence: training/arguments.py, get_device_arch_version() < 10
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._parallel import FSDP, MODEL, VARIABLE


def check(case: Case) -> Iterator[Hit]:
    sizes = {name: case.size(name) for name in (MODEL[0], MODEL[2]) if name in case.options}
    if not case.is_megatron or not any(size and size > 1 for size in sizes.values()):
        return
    if (
        case.has("--overlap-moe-expert-parallel-comm") is not False
        and "--overlap-moe-expert-parallel-comm" in case.options
    ):
        return
    value = case.command.environment.get(VARIABLE)
    if value is None and case.setting.here:
        value = os.environ.get(VARIABLE)
    fsdp = [name for name in FSDP if case.has(name)]
    which = next(name for name, size in sizes.items() if size and size > 1)
    if (value is not None and (value == "1" or is_unknown(value))) or fsdp:
        return
    says = f"is {value}" if value is not None else "is not set"
    yield Hit(f"{which} above 1 and {VARIABLE} {says}: validate_args asserts 1 on GPUs before Blackwell", (which,))
