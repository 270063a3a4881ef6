"""YaRN's original length from --max-position-embeddings.

Severity: warning

Why: these releases have no flag of its own for it

Fix: give --max-position-embeddings 4096

Releases: 0.10 - 0.13.1

Evidence: core/transformer/multi_latent_attention.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._models import yarn

_TRUE_ORIGINAL = 4096


def check(case: Case) -> Iterator[Hit]:
    most, factor = case.size("--max-position-embeddings"), case.number("--rotary-scaling-factor")
    if yarn(case) and not case.at_least("0.14") and factor not in (None, 1.0) and most not in (None, _TRUE_ORIGINAL):
        yield Hit(f"--max-position-embeddings {most} is read as YaRN's original length, which is {_TRUE_ORIGINAL} for "
                  "DeepSeek-V2", ("--max-position-embeddings",))  # fmt: skip
