"""A script or run name with a format that the run does not get.

Severity: error

Why: the results are filed under a format that was never computed

Fix: correct the name, the selectors or the layers

Releases: all

Evidence: the names of the modes: FA_x is qk, linear_x is linear
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.who import delivered
from quantctl.modes import is_cut
from quantctl.spec import FORMATS

_WORD = re.compile(r"(?<![a-z0-9])(fa|linear|" + "|".join(FORMATS) + r"|fp8|fp4)(?![a-z0-9])", re.IGNORECASE)


def _promises(name: str) -> tuple[set[str], set[str]]:
    """The formats and the sites (linear, qk) that a name speaks of."""
    words = [word.lower() for word in _WORD.findall(name.replace("_", " ").replace(".", " "))]
    return {word for word in words if word not in ("fa", "linear")}, {
        {"fa": "qk", "linear": "linear"}[word] for word in words if word in ("fa", "linear")
    }


def check(case: Case) -> Iterator[Hit]:
    got = delivered(case)
    if got is None:
        return
    gives = ", ".join(sorted(got)) or "nothing quantized"
    for name in case.names:
        formats, sites = _promises(name)
        if missing := sorted(formats - got):
            yield Hit(f"the name {name} says {', '.join(missing)}, the command gives: {gives}", ("--transformer-impl",))
        elif case.local and formats & set(FORMATS):
            lacking = sorted(sites - case.quantized.keys())
            more = sorted(set(case.quantized) & {"linear", "qk"} - sites) if sites and not is_cut(name) else []
            if lacking or more:
                says = f"quantizes {', '.join(sorted(sites))}"
                yield Hit(f"the name {name} {says}, the selectors: {', '.join(sorted(case.quantized))}")
