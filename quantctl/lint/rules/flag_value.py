"""A value that is no number where the flag takes one.

Severity: error

Why: argparse without abbreviations: the parser stops before anything is built

Fix: give a number

Releases: all

Evidence: quantctl/lint/megatron_flags, read from the live parsers
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import Option
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import known


def _fits(option: Option, value: str) -> bool:
    try:
        {"int": int, "float": float}.get(option.type or "", str)(value)
    except ValueError:
        return False
    return True


def check(case: Case) -> Iterator[Hit]:
    for one, option in known(case):
        for value in one.values:
            if not option.choices and not is_unknown(value) and not _fits(option, value):
                kind = {"int": "a whole number", "float": "a number"}[option.type or ""]
                yield Hit(f"{one.name} {value!r}: it takes {kind}", (one.name,))
