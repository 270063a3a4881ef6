"""What rules about models share: the model that a run is named after."""

from __future__ import annotations

import re

from quantctl.lint.case import Case

NAMED = {
    "llama31-8b": re.compile(r"llama[-_. ]?3[._p-]?1[-_. ]?8b", re.IGNORECASE),
    "llama32-1b": re.compile(r"llama[-_. ]?3[._p-]?2[-_. ]?1b", re.IGNORECASE),
    "deepseek2_lite": re.compile(r"deepseek[-_. ]?v?2[-_. ]?lite", re.IGNORECASE),
}


def model(case: Case) -> tuple[str, str] | None:
    """The registry's model that a name speaks of, and that name."""
    for name in case.names:
        for model, pattern in NAMED.items():
            if pattern.search(name):
                return model, name
    return None


def yarn(case: Case) -> bool:
    """MLA's rotary embedding is YaRN's unless --rope-type says rope."""
    return bool(case.has("--multi-latent-attention")) and case.text("--rope-type") != "rope"
