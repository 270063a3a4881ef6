"""--rope-scaling-factor with a trainer that forgets it.

Severity: error

Why: it is parsed and not passed on: the factor stays 8, which is wrong for Llama 3.2 (32)

Fix: quantctl patch passes it on (rope_scaling_factor); quantctl exec does it for its own copy of the tree

Releases: all

Evidence: pretrain_gpt.py, gpt_builders.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.program import EMBEDDED
from quantctl.lint.rule import Hit, Severity

_FACTOR_PLACES = ("pretrain_gpt", "gpt_builders", "argument_utils")


def check(case: Case) -> Iterator[Hit]:
    factor = case.number("--rope-scaling-factor")
    if not case.has("--rope-scaling-factor") or factor in (None, 8.0) or case.command.program == EMBEDDED:
        return
    lacks = [case.lacks(f"rope_scaling_factor:{place}") for place in _FACTOR_PLACES]
    if True in lacks or None in lacks:
        message = f"--rope-scaling-factor {factor:g} never reaches the model, which keeps 8"
        yield Hit(message, ("--rope-scaling-factor",), None if True in lacks else Severity.WARNING)
