"""Scripts that end with success after a training that failed."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Rule, Severity


def _status(case: Case) -> Iterator[Hit]:
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


def _unreadable(case: Case) -> Iterator[Hit]:
    if case.script is not None and case.script.unreadable:
        lines = ", ".join(map(str, case.script.unreadable[:5]))
        yield Hit(f"line {lines} cannot be read as bash: what stands there is not judged")


RULES = (
    Rule(
        id="exit-status-lost",
        family="scripts",
        severity=Severity.WARNING,
        what="a script whose exit status is not the training's",
        why="schedulers, loops and people take the failed run for a finished one",
        fix="begin with `set -euo pipefail`, or end with `exec` and the training command",
        releases="all",
        evidence="examples/llama/train_llama3_8b_h100_fp8.sh ends in `set +x`",
        check=_status,
    ),
    Rule(
        id="unreadable",
        family="scripts",
        severity=Severity.NOTE,
        what="a script that the grammar cannot read in full",
        why="placeholders such as <path> are redirections to bash",
        fix="put real words in, or quote them",
        releases="all",
        evidence="tree-sitter-bash",
        check=_unreadable,
    ),
)
