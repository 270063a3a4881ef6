"""--attention-backend local.

Severity: error

Why: it does not choose local attention; it asserts args.spec[0] == 'local' and crashes without --spec

Fix: use --attention-backend unfused with --transformer-impl local

Releases: all

Evidence: training/arguments.py; run
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.text("--attention-backend") != "local" or not case.is_megatron:
        return
    spec = case.arguments.last("--spec")
    if (spec is None and case.has("--spec") is False) or (spec is not None and spec.values[:1] != ("local",)):
        yield Hit("--attention-backend local chooses no local attention: it asserts --spec local, and stops without it",
                  ("--attention-backend",))  # fmt: skip
