"""Selectors that the command's layers do not read.

Severity: error

Why: nothing that reads them computes a product there: the run trains unquantized

Fix: quantctl patch puts them into Transformer Engine's layers; or add --transformer-impl local

Releases: all

Evidence: core/extensions/transformer_engine.py; proof.json of such a run counts no product
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import LEGACY, TE, Case
from quantctl.lint.rule import Hit
from quantctl.lint.who import never_run


def check(case: Case) -> Iterator[Hit]:
    if not (roles := never_run(case)):
        return
    asked = ", ".join(f"{role}={case.quantized[role]}" for role in roles)
    by, flag = case.layers_by, "--transformer-impl"
    if case.implementation == LEGACY:
        flag, because = by, f"{by} is given, and legacy models have an attention of their own"
    elif case.implementation == TE:
        because = "the Transformer Engine layers of this tree do not read it"
    else:
        because = f"{flag} {case.implementation} is given"
    yield Hit(f"{asked} is never executed: {because}", (flag,))
