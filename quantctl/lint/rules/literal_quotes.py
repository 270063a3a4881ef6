"""A value that begins and ends with a quote character.

Severity: warning

Why: quotes inside an array element or a variable are characters, not quoting: the trainer reads them

Fix: quote the flag and its value as two words: --split 99,1,0

Releases: all

Evidence: examples/llama/train_llama3_8b_h100_fp8.sh; --split happens to survive it, a path does not
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import known


def check(case: Case) -> Iterator[Hit]:
    for one, _ in known(case):
        for value in one.values:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                yield Hit(f"{one.name} gets the value {value} with its quotes", (one.name,))
