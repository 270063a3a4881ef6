"""What rules about fused kernels share: packages that may not be there. Nothing is imported to find out."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity


def needs(case: Case, modules: tuple[str, ...], message: str, flag: str) -> Iterator[Hit]:
    """An error where the command is about to run and lacks all of `modules`, a note where another machine decides."""
    found = [case.importable(module) for module in modules]
    if None in found:
        yield Hit(f"{message}, where it trains", (flag,), Severity.NOTE)
    elif not any(found):
        yield Hit(f"{message}, which this machine does not have", (flag,))
