"""--fp8-recipe or --fp4-recipe without its format.

Severity: warning

Why: the recipe only says how; without a format nothing is quantized

Fix: add --fp8-format hybrid or e4m3

Releases: all

Evidence: transformer_config.py: recipes are read under `if self.fp8`
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    for kind in ("fp8", "fp4"):
        if case.has(f"--{kind}-recipe") and case.has(f"--{kind}-format") is False:
            yield Hit(f"--{kind}-recipe without --{kind}-format: nothing is quantized", (f"--{kind}-recipe",))
