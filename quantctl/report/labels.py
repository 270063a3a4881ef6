"""What modes are called where there is little room, and which of them are one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from quantctl.errors import QuantctlError
from quantctl.modes import NAMED, selection
from quantctl.spec import NONE, SITES, literal

LONGEST = 64
"""Characters of a mode that are shown wherever it is named."""
_CUT = 44


def mode_of(selectors: Mapping[str, str]) -> str:
    """The mode whose selectors these are, in canonical form, else the selectors that are not none."""
    values = {site: selectors.get(site, NONE) for site in SITES}
    for mode, wanted in NAMED.items():
        if values == wanted:
            return mode
    return " ".join(f"{site}={value}" for site, value in values.items() if value != NONE)


def as_runs_say(mode: str) -> str:
    """What runs call a mode, or selectors, that somebody names; the text itself where it is none."""
    try:
        return mode_of(selection(mode))
    except QuantctlError:
        return mode


def meaning(selectors: Mapping[str, str]) -> Hashable:
    """Equal where selectors mean the same, whatever their literals begin with; a word that is none means itself."""
    found = []
    for site in SITES:
        value = selectors.get(site, NONE)
        try:
            found.append((site, literal(value, site).meaning))
        except QuantctlError:
            found.append((site, value))
    return tuple(found)


def labels(modes: Iterable[str]) -> dict[str, str]:
    """Mode -> what it is called: itself, or its beginning with a number of its own."""
    found, number = {}, 0
    for mode in dict.fromkeys(modes):
        found[mode] = mode
        if len(mode) > LONGEST:
            number += 1
            front = mode[:_CUT].rpartition(" ")[0] or mode[:_CUT]
            found[mode] = f"{front.rstrip(';:,')} ... [{number}]"
    return found
