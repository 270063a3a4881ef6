"""A script that the grammar cannot read in full.

Severity: note

Why: placeholders such as <path> are redirections to bash

Fix: put real words in, or quote them

Releases: all

Evidence: tree-sitter-bash
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if case.script is not None and case.script.torn:
        yield Hit(case.script.torn)
