"""Heads that tensor parallelism or query groups do not divide.

Severity: error

Why: TransformerConfig raises ValueError

Fix: choose sizes that divide

Releases: all

Evidence: core/transformer/transformer_config.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    tensor = case.size("--tensor-model-parallel-size")
    heads, groups = case.size("--num-attention-heads"), case.size("--num-query-groups")
    if tensor and heads and heads % tensor:
        yield Hit(f"{heads} heads are no multiple of tensor parallelism {tensor}", ("--num-attention-heads",))
    if case.has("--group-query-attention") and groups and heads and heads % groups:
        yield Hit(f"{heads} heads are no multiple of {groups} query groups", ("--num-query-groups",))
