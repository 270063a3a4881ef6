"""What the words of `--mode` mean: the named combinations of selectors, selectors themselves, and lists of both.

>>> selection("FA_mxfp8")["qk"], selection("linear=mxfp8:scale=floor,round=away qk=mxfp4")["linear"]
('mxfp8', 'mxfp8:scale=floor,round=away')
>>> choices("bf16,linear=mxfp8 qk=mxfp4,FA_mxfp8")
['bf16', 'linear=mxfp8 qk=mxfp4', 'FA_mxfp8']
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from quantctl.errors import QuantctlError, quoted, unknown
from quantctl.spec import ATTENTION_IMPLEMENTATIONS, FORMATS, NONE, SITES, canonical, choice, names_of

SCRIPT_FORMATS = ("mxfp8", "mxfp4", "hifp8")
"""The formats that the generated scripts compare; every other format has modes, too, but no scripts."""

# pattern -> the sites that take format x; FA quantizes QK only, PV has its own selector
_PATTERNS = {
    "FA_{}": ("qk",),
    "linear_{}": ("linear",),
    "FA_linear_{}": ("linear", "qk"),
    "{}": ("linear", "qk", "pv"),
}


def _combination(sites: tuple[str, ...], format_: str) -> dict[str, str]:
    return {site: format_ if site in sites else NONE for site in SITES}


MODES: dict[str, dict[str, str]] = {"bf16": _combination((), NONE)} | {
    pattern.format(name): _combination(sites, name) for pattern, sites in _PATTERNS.items() for name in FORMATS
}
"""Mode name -> value of every selector."""

SCRIPT_MODES: tuple[str, ...] = (
    "bf16",
    *(pattern.format(name) for pattern in _PATTERNS if pattern != "{}" for name in SCRIPT_FORMATS),
)
"""The ten modes that the generated scripts cover."""

ATTENTION = "attention"
ROLES = (*SITES, ATTENTION)
"""What selectors are called."""
_LISTING = "quantctl list modes shows all; selectors are written 'linear=mxfp8:scale=floor qk=mxfp4'"


def mode_selectors(mode: str) -> dict[str, str]:
    """The value of every selector in a named mode. Raises QuantctlError for another word."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES, _LISTING)
    return dict(MODES[mode])


def canonical_value(role: str, value: str) -> str:
    """A selector's value as it stands in a file. Raises QuantctlError if it is unknown."""
    return choice(role, value, ATTENTION_IMPLEMENTATIONS) if role == ATTENTION else canonical(value, role)


def _pairs(text: str) -> list[str | list[tuple[str, str]]]:
    """Mode names, and between them the selectors that stand together; commas and blanks separate alike.

    A key=value that is no selector's goes on with the spec before it: in `linear=mxfp8:scale=floor,round=away` that is
    an option.
    """
    found: list[str | list[tuple[str, str]]] = []
    for word in re.split(r"[,\s]+", text.strip(", \t\n")):
        key, equals, value = word.partition("=")
        role = key.replace("-", "_")
        last = found[-1] if found else None
        if not equals:
            found.append(word)
        elif role in ROLES and isinstance(last, list):
            last.append((role, value))
        elif role in ROLES:
            found.append([(role, value)])
        elif isinstance(last, list):
            last[-1] = (last[-1][0], f"{last[-1][1]},{word}")
        elif key.partition(":")[0] in {name for format_ in FORMATS for name in names_of(format_)}:
            raise QuantctlError(f"{quoted(word)} is a format: of which products?", f"name its selector: linear={word}")
        else:
            raise unknown("selector", key, ROLES)
    return found


def choices(text: str) -> list[str]:
    """Each mode or set of selectors in a list of them, as `selection` takes it; their values are not looked at yet.

    Raises QuantctlError for a list of nothing, and for selectors that do not exist.
    """
    found = [
        part if isinstance(part, str) else " ".join(f"{role}={value}" for role, value in part) for part in _pairs(text)
    ]
    if found == [""]:
        raise QuantctlError("an empty mode", _LISTING)
    return found


def selection(text: str, meant: Callable[[str, str], str] = canonical_value) -> dict[str, str]:
    """What one choice says: every selector of a named mode, or the selectors that are named, by `meant` canonical.

    Raises QuantctlError for an unknown mode, selector or value, for a selector said twice and for several choices.
    """
    choices(text)
    parts = _pairs(text)
    if len(parts) > 1:
        raise QuantctlError(f"{quoted(text)} names {len(parts)} modes", "one is meant here: give a single one")
    (part,) = parts
    if isinstance(part, str):
        return mode_selectors(part)
    chosen: dict[str, str] = {}
    for role, value in part:
        if role in chosen:
            raise QuantctlError(f"{quoted(text)} says {role} twice", "name each selector once")
        chosen[role] = meant(role, value)
    return chosen


def all_choices(texts: Sequence[str]) -> list[str]:
    """The choices of several lists, each once and valid."""
    found = list(dict.fromkeys(choice for text in texts for choice in choices(text)))
    for one in found:
        selection(one)
    return found


def file_name(mode: str) -> str:
    """A mode, or selectors, as part of a path: `linear-mxfp8_scale-floor_qk-mxfp4`."""
    return re.sub(r"[^\w.+-]+", "_", mode.replace("=", "-")).strip("_")
