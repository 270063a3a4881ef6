"""Too few or too many values behind a flag.

Severity: error

Why: argparse without abbreviations: the parser stops before anything is built

Fix: check the words around it: a variable may be empty

Releases: all

Evidence: quantctl/lint/megatron_flags, read from the live parsers
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import PLACEHOLDER, known


def check(case: Case) -> Iterator[Hit]:
    for one, option in known(case):
        if not one.complete:
            yield Hit(f"{one.name} lacks its value" + "s" * (option.nargs not in (1, "+")), (one.name,))
        stray = [word for word in one.extra if not is_unknown(word)]
        if PLACEHOLDER.search(" ".join((*one.values, *stray))):
            continue
        if stray and len(stray) == len(one.extra):
            takes = "is a switch" if option.is_switch else f"takes {option.nargs}"
            yield Hit(f"{' '.join(stray)!r} behind {one.name}: the flag {takes}, the rest is refused", (one.name,))
