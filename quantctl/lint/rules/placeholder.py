"""A value that nobody filled in.

Severity: warning

Why: it is taken as it stands, and split at its blanks where it is not quoted

Fix: put the real value in

Releases: all

Evidence: examples/multimodal/nvlm
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._flags import PLACEHOLDER, known


def check(case: Case) -> Iterator[Hit]:
    for one, _ in known(case):
        if found := PLACEHOLDER.search(" ".join((*one.values, *one.extra))):
            yield Hit(f"{one.name} still holds the placeholder {found[0]}", (one.name,))
