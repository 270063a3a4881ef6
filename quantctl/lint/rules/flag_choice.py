"""A value outside the flag's choices.

Severity: error

Why: argparse without abbreviations: the parser stops before anything is built

Fix: give one of the choices

Releases: all

Evidence: quantctl/lint/megatron_flags, read from the live parsers
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.program import OTHER
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import known

_FORMAT_FIX = (
    "mxfp8 is a recipe there: --fp8-format e4m3 --fp8-recipe mxfp8; with local layers use quantctl's selectors"
)


def check(case: Case) -> Iterator[Hit]:
    if case.command.foreign or (case.command.program == OTHER and not case.command.stack_of_its_own):
        return  # a fork's own program has choices of its own
    for one, option in known(case):
        for value in one.values:
            if option.choices and option.nargs != 0 and not is_unknown(value) and value not in option.choices:
                yield Hit(
                    f"{one.name} {value}: {case.setting.release} takes {', '.join(option.choices)}",
                    (one.name,),
                    fix=_FORMAT_FIX if one.name == "--fp8-format" else None,
                )
