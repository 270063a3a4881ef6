"""Commands of which some products go past the selectors that name them, while others are quantized: the proof, which
counts calls, finds nothing wrong with such a run."""

from __future__ import annotations

from quantctl.errors import QuantctlError
from quantctl.lint.case import Case
from quantctl.lint.rules import RULES


def refuse(case: Case) -> None:
    """Raises QuantctlError, with what to do, for such a training command."""
    for rule in RULES.values():
        if rule.unseen and (hit := next(iter(rule.check(case)), None)):
            raise QuantctlError(hit.message, hit.fix or rule.fix)
