"""No --eval-interval.

Severity: error

Why: the number of validation samples is computed from it, and its default became None

Fix: add --eval-interval 1000; --eval-iters 0 switches validation off

Releases: 0.16 and later

Evidence: training/training.py, build_train_valid_test_datasets; run on an H200
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    option = case.options.get("--eval-interval")
    if option is None or option.default != "None" or case.has("--eval-interval") is not False or not case.is_megatron:
        return
    if any(case.has(name) is not False for name in ("--full-validation", "--skip-train", "--train-samples")):
        return
    yield Hit("--eval-interval is missing: train_iters // None is a TypeError, also with --eval-iters 0",
              ("--eval-interval", "--eval-iters"))  # fmt: skip
