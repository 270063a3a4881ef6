"""Selectors with layers other than local.

Severity: error

Why: transformer_engine layers never reach the files that hold the selectors: the run trains unquantized

Fix: add --transformer-impl local, or leave the selectors at none and use Transformer Engine's own recipes

Releases: all

Evidence: gpt_layer_specs.py; proof.json of such a run counts no product
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import LEGACY, Case
from quantctl.lint.rule import Hit
from quantctl.lint.who import LAYERS


def check(case: Case) -> Iterator[Hit]:
    never = ("qk", "pv") if case.implementation == LEGACY else LAYERS
    roles = [role for role in case.quantized if role in never]
    if case.local is False and roles:
        asked = ", ".join(f"{role}={case.quantized[role]}" for role in roles)
        by, flag = case.layers_by, "--transformer-impl"
        if by == flag:
            because = f"{flag} {case.implementation} {'is given' if case.has(flag) else 'is the default'}"
        elif by == "--use-legacy-models":
            flag, because = by, f"{by} is given, and legacy models have an attention of their own"
        elif by == "--spec":
            flag, because = by, "the layers of --spec are Transformer Engine's, whatever --transformer-impl says"
        else:
            because = f"the stack of {by} knows Transformer Engine's layers only, whatever --transformer-impl says"
        yield Hit(f"{asked} is never executed: {because}", (flag,))
