"""Rotary fusion without Transformer Engine.

Severity: error

Why: TransformerConfig raises ValueError. An error where the command is about to run, a note for a script

Fix: add the flag; or install the package

Releases: all

Evidence: core/transformer/transformer_config.py; run on an H200
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._fusions import needs


def check(case: Case) -> Iterator[Hit]:
    flag = "--no-rope-fusion"
    by_flag = case.has("--use-rotary-position-embeddings") or case.text("--position-embedding-type") == "rope"
    if case.local and case.is_megatron and by_flag and case.has(flag) is False:
        modules = ("transformer_engine",) if case.at_least("0.14") else ("transformer_engine", "apex")
        yield from needs(case, modules, f"{flag} is missing: the fusion needs Transformer Engine", flag)
