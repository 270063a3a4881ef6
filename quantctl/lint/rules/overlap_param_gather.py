"""--overlap-param-gather without what it overlaps.

Severity: error

Why: validate_args asserts an optimizer whose parameters are shared out, and --overlap-grad-reduce

Fix: add --use-distributed-optimizer --overlap-grad-reduce, or take it out

Releases: all

Evidence: training/arguments.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

# any of them shares parameters out; which of them there are depends on the release
_FSDP = ("--use-megatron-fsdp", "--use-custom-fsdp", "--data-parallel-sharding-strategy")


def check(case: Case) -> Iterator[Hit]:
    if not case.is_megatron or not case.has("--overlap-param-gather"):
        return
    if case.text("--optimizer") == "dist_muon" or any(case.has(name) is not False for name in _FSDP):
        return
    if case.has("--use-distributed-optimizer") is False:
        yield Hit("--overlap-param-gather without --use-distributed-optimizer", ("--overlap-param-gather",))
    elif case.has("--overlap-grad-reduce") is False:
        yield Hit("--overlap-param-gather without --overlap-grad-reduce", ("--overlap-param-gather",))
