"""--attention-backend not given, auto, or without effect.

Severity: warning

Why: the run does not say which attention it computed

Fix: add --attention-backend unfused with local layers, else flash, fused or unfused

Releases: all

Evidence: core/transformer/enums.py: the default is auto
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity


def check(case: Case) -> Iterator[Hit]:
    if not case.is_megatron or "--attention-backend" not in case.options:
        return
    given = case.text("--attention-backend")
    if case.has("--attention-backend") is False or given == "auto":
        choose = "unfused is what the local layers compute" if case.local else "auto is Transformer Engine's own choice"
        severity = None if case.local else Severity.NOTE
        yield Hit(f"--attention-backend is not explicit: {choose}", ("--attention-backend",), severity)
    elif case.local and given in ("flash", "fused"):
        yield Hit(f"--attention-backend {given} is not looked at by the local layers: they compute unfused",
                  ("--attention-backend",), Severity.WARNING)  # fmt: skip
