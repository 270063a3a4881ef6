"""RMSNorm with Apex but without Transformer Engine.

Severity: error

Why: the final norm is Apex's FusedLayerNorm, which rejects RMSNorm; only where the command is about to run

Fix: install Transformer Engine, or take Apex out

Releases: all

Evidence: core/transformer/transformer_block.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    apex, engine = case.importable("apex"), case.importable("transformer_engine")
    if case.local and case.is_megatron and apex and engine is False and case.text("--normalization") == "RMSNorm":
        message = "Apex is there and Transformer Engine is not: the final norm is FusedLayerNorm, which has no RMSNorm"
        yield Hit(message, ("--normalization",))
