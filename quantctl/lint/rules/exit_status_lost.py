"""A script whose exit status is not the training's.

Severity: warning

Why: schedulers, loops and people take the failed run for a finished one

Fix: begin with `set -euo pipefail`, or end with `exec` and the training command

Releases: all

Evidence: examples/llama/train_llama3_8b_h100_fp8.sh ends in `set +x`
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    invocation, script = case.invocation, case.script
    if invocation is None or script is None:
        return
    if script.last_look >= invocation.line or script.traps:
        return
    if invocation.masked:
        yield Hit(f"a failed training ends as success: {invocation.masked}")
    elif not invocation.stops and case.after:
        last = " ".join(case.after[-1].argv[:3])
        yield Hit(f"a failed training ends as success: no `set -e`, and the script ends with `{last}`")
