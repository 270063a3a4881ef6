"""Transformer_engine layers without Transformer Engine.

Severity: error

Why: the layer spec cannot be built; only where the command is about to run

Fix: pip install 'transformer-engine[pytorch]', or --transformer-impl local

Releases: all

Evidence: core/models/gpt/gpt_layer_specs.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import TE, Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    asked = case.is_megatron and case.implementation == TE
    if asked and case.importable("transformer_engine") is False:
        message = "transformer_engine layers are asked for, and Transformer Engine is not installed"
        yield Hit(message, ("--transformer-impl",))
