"""A flag that the release does not have.

Severity: error

Why: argparse without abbreviations: the parser stops before anything is built

Fix: correct the flag, or take it out

Releases: all

Evidence: quantctl/lint/megatron_flags, read from the live parsers
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.program import EMBEDDED
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules._flags import MOST_STRANGE, elsewhere, not_of_the_release, strange, unknown

_LONGEST_NAME = 80


def _nearest(case: Case, name: str) -> str:
    if len(name) > _LONGEST_NAME:
        return ""
    found = difflib.get_close_matches(name.replace("_", "-"), case.options, n=1, cutoff=0.75)
    return found[0] if found else ""


def check(case: Case) -> Iterator[Hit]:
    if case.command.foreign and (others := [one.name for one in not_of_the_release(case)]):
        whose = f"Megatron-LM {case.setting.release} does not have"
        yield Hit(
            f"not judged, because {case.command.script} brings a parser of its own: {len(others)} flags that {whose}, "
            f"{others[0]} the first",
            (others[0],),
            Severity.NOTE,
        )
    for one in unknown(case):
        if not elsewhere(case, one.name):
            nearest = _nearest(case, one.name)
            whose = (
                "the embedded trainer" if case.command.program == EMBEDDED else f"Megatron-LM {case.setting.release}"
            )
            guess = f"; did you mean {nearest}?" if nearest else ""
            yield Hit(f"{whose} has no flag {one.name}{guess}", (one.name,))
    if more := strange(case)[MOST_STRANGE:]:
        yield Hit(
            f"{len(more)} more flags that {case.setting.release} does not have were not looked at", (more[0].name,)
        )
