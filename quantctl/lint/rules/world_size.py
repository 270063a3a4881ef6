"""Ranks that the parallel sizes do not divide.

Severity: error

Why: validate_args asserts it

Fix: change --nproc-per-node, --nnodes or the parallel sizes

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._parallel import MODEL, model_size, rank_count


def check(case: Case) -> Iterator[Hit]:
    (ranks, severity, where), model = rank_count(case), model_size(case)
    if ranks and model and ranks % model and case.is_megatron:
        message = f"{ranks} ranks{where} are no multiple of tensor x pipeline x context parallelism = {model}"
        yield Hit(message, MODEL, severity)
