"""Ms-swift 3.x with local layers and tensor parallelism, of a model with multi-latent attention.

Severity: warning

Why: it puts its own get_query_key_value_tensors in the place of the one in which quantctl sums a gradient over ranks

Fix: --transformer_impl transformer_engine, whose projection needs no sum; or tensor parallelism of 1

Releases: all

Evidence: ms-swift 3.12.6, swift/megatron/init.py, _patch_mla_attention
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.program import SWIFT
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.command.program == SWIFT and case.local and (case.size("--tensor-model-parallel-size") or 1) > 1:
        yield Hit(
            "ms-swift replaces MLASelfAttention.get_query_key_value_tensors: with MLA the gradient of the keys' rotary "
            "projection loses the other ranks' part",
            ("--tensor-model-parallel-size",),
        )
