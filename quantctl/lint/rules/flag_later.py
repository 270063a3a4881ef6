"""A flag that comes with a later release.

Severity: error

Why: argparse without abbreviations: the parser stops before anything is built

Fix: take it out, or use a newer release

Releases: all

Evidence: quantctl/lint/megatron_flags, read from the live parsers
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import releases
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import elsewhere, unknown


def check(case: Case) -> Iterator[Hit]:
    for one in unknown(case):
        if (has := elsewhere(case, one.name)) and releases().index(has[-1]) > releases().index(case.setting.release):
            yield Hit(f"{case.setting.release} has no {one.name} yet: it comes with {has[0]}", (one.name,))
