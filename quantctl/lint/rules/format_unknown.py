"""A selector's value that is no literal of formats.

Severity: error

Why: quantctl refuses it, and a patched tree stops at it

Fix: quantctl list shows the modes and formats, docs/formats.md the literals

Releases: all

Evidence: quantctl/spec
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.errors import QuantctlError
from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.spec import canonical


def check(case: Case) -> Iterator[Hit]:
    for role, spec in (case.selectors or {}).items():
        try:
            canonical(spec, role)
        except QuantctlError as error:
            yield Hit(f"{role}: {error.message}", fix=error.hint)
    if case.command.staged and case.command.selectors is None and case.command.mode:
        yield Hit(f"--mode {case.command.mode} is no mode", fix="quantctl list modes shows them")
