"""A global batch that micro batches and ranks do not divide.

Severity: error

Why: the microbatch calculator asserts it

Fix: make it a multiple of micro batch x data parallelism

Releases: all

Evidence: core/num_microbatches_calculator.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._parallel import model_size, rank_count


def check(case: Case) -> Iterator[Hit]:
    (ranks, severity, where), model = rank_count(case), model_size(case)
    micro, whole = case.size("--micro-batch-size"), case.size("--global-batch-size")
    loose = ("--rampup-batch-size", "--decrease-batch-size-if-needed", "--step-batch-size-schedule")
    if not (ranks and model and micro and whole and case.is_megatron) or any(case.has(name) for name in loose):
        return
    if ranks % model == 0 and whole % (micro * (ranks // model)):
        split = f"micro batch {micro} x data parallelism {ranks // model}{where}"
        message = f"global batch {whole} is no multiple of {split}"
        yield Hit(message, ("--global-batch-size", "--micro-batch-size"), severity)
