"""Sequence parallelism with PyTorch's norms.

Severity: error

Why: stock Megatron asserts; the patch rmsnorm_sp makes it work

Fix: quantctl patch puts the patch in; quantctl exec does it for its own copy of the tree; or drop --sequence-parallel

Releases: all

Evidence: core/transformer/torch_norm.py, WrappedTorchNorm.__new__; run on 0.12.3, 0.16.1, 0.19.0
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules._layers import rmsnorm, torch_norm


def check(case: Case) -> Iterator[Hit]:
    if case.sequence_parallel and case.local and case.is_megatron and torch_norm(case) is not False:
        lacks = case.lacks("rmsnorm_sp")
        if not rmsnorm(case):
            lacks, which = True, "LayerNorm without Apex"
        else:
            which = "RMSNorm"
        if lacks is not False:
            sure = torch_norm(case) and lacks
            yield Hit(f"--sequence-parallel with {which}: the local layers' norm stops at an assert",
                      ("--sequence-parallel", "--normalization"), None if sure else Severity.WARNING)  # fmt: skip
