"""Multi-token prediction without Transformer Engine.

Severity: error

Why: an isinstance on a name that is no class

Fix: quantctl patch puts the patch in; quantctl exec does it for its own copy of the tree

Releases: main

Evidence: run: TypeError
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._layers import patched


def check(case: Case) -> Iterator[Hit]:
    if (
        case.local
        and case.is_megatron
        and case.has("--mtp-num-layers")
        and case.importable("transformer_engine") is False
    ):
        message = (
            "MTP layers without Transformer Engine: isinstance(..., InferenceColumnParallelLinear) raises TypeError"
        )
        yield from patched(case, "mtp_without_te", message, "--mtp-num-layers", case.at_least("0.20"))
