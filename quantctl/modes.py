"""What the words of `--mode` mean: named combinations of selectors, recipes, selectors themselves, and lists of all.

>>> selection("FA_mxfp8")["qk"], selection("linear=mxfp8:scale=floor,round=away qk=mxfp4")["linear"]
('mxfp8', 'mxfp8:scale=floor,round=away')
>>> choices("bf16,linear=mxfp8 qk=mxfp4,FA_mxfp8")
['bf16', 'linear=mxfp8 qk=mxfp4', 'FA_mxfp8']
>>> choices("linear=mxfp4; layers 1-2, -1: none qk=mxfp8, bf16")
['linear=mxfp4; layers 1-2,-1: none qk=mxfp8', 'bf16']
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from quantctl import spec
from quantctl.errors import QuantctlError, quoted, unknown
from quantctl.spec import ATTENTION_IMPLEMENTATIONS, FORMATS, NONE, SEPARATOR, SITES, canonical, choice, names_of
from quantctl.spec.recipes import RECIPES

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

NAMED: dict[str, dict[str, str]] = MODES | {
    name: _combination((), NONE) | {"linear": recipe.linear} for name, recipe in RECIPES.items()
}
"""Modes and recipes, which are called by their names alike."""

SCRIPT_MODES: tuple[str, ...] = (
    "bf16",
    *(pattern.format(name) for pattern in _PATTERNS if pattern != "{}" for name in SCRIPT_FORMATS),
)
"""The ten modes that the generated scripts cover."""

ATTENTION = "attention"
ROLES = (*SITES, ATTENTION)
"""What selectors are called."""
_LISTING = "quantctl list modes recipes shows all; selectors are written 'linear=mxfp8:scale=floor qk=mxfp4'"


def mode_selectors(mode: str) -> dict[str, str]:
    """The value of every selector in a named mode, or by a recipe. Raises QuantctlError for another word."""
    if mode not in NAMED:
        raise unknown("mode", mode, NAMED, _LISTING)
    return dict(NAMED[mode])


def canonical_value(role: str, value: str) -> str:
    """A selector's value as it stands in a file. Raises QuantctlError if it is unknown."""
    return choice(role, value, ATTENTION_IMPLEMENTATIONS) if role == ATTENTION else canonical(value, role)


def same_value(role: str, one: str, other: str) -> bool:
    """Whether two values of a selector in canonical form, or words of a fork's, mean the same."""
    plain = role not in SITES or not any(sign in value for value in (one, other) for sign in ".;")
    if one == other or plain:
        return one == other
    try:
        return spec.literal(one, role).meaning == spec.literal(other, role).meaning
    except QuantctlError:
        return False


_FORMAT_NAMES = frozenset(name for format_ in FORMATS for name in names_of(format_))


class _Value:
    """A selector's value while its words are read."""

    def __init__(self, role: str, first: str) -> None:
        self.role = role
        self.parts = [first]
        self.wants_more = self.in_rule = self.has_colon = False
        self._read(first)

    def _read(self, word: str) -> None:
        _, semicolon, tail = word.rpartition(SEPARATOR)
        self.in_rule = self.in_rule or bool(semicolon)
        self.has_colon = ":" in tail or (self.has_colon and not semicolon)
        # a rule without its spec, or a colon with nothing behind it
        self.wants_more = (self.in_rule and not self.has_colon) or word.endswith(":")

    def add(self, between: str, word: str) -> None:
        self.parts += [between, word]
        self._read(word)

    def __str__(self) -> str:
        return "".join(self.parts)


def _pairs(text: str) -> list[str | list[_Value]]:
    """Mode names, and between them the selectors that stand together; commas and blanks separate alike.

    A value goes on, in this order: never over `selector=`; with a word that begins with a semicolon; while a rule of it
    has no spec yet, with any word (`; layers 1-2, -1: none` ends behind none); with key=value, which is an option of
    the spec before it, as in `linear=mxfp8:scale=floor,round=away`. What else stands there is the next mode.
    """
    found: list[str | list[_Value]] = []
    for between, word in re.findall(r"([,\s]*)([^,\s]+)", text):
        key, equals, value = word.partition("=")
        role = key.replace("-", "_")
        last = found[-1] if found else None
        if equals and role in ROLES:
            if not isinstance(last, list):
                found.append(last := [])
            last.append(_Value(role, value))
        elif isinstance(last, list) and (last[-1].wants_more or word.startswith(SEPARATOR)):
            last[-1].add("," if "," in between else " ", word)
        elif not equals:
            found.append(word)
        elif isinstance(last, list):
            last[-1].add(",", word)
        elif key.partition(":")[0] in _FORMAT_NAMES:
            raise QuantctlError(f"{quoted(word)} is a format: of which products?", f"name its selector: linear={word}")
        else:
            raise unknown("selector", key, ROLES)
    return found


def choices(text: str) -> list[str]:
    """Each mode or set of selectors in a list of them, as `selection` takes it; their values are not looked at yet.

    Raises QuantctlError for a list of nothing, and for selectors that do not exist.
    """
    found = [
        part if isinstance(part, str) else " ".join(f"{value.role}={value}" for value in part) for part in _pairs(text)
    ]
    if not found:
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
    for value in part:
        if value.role in chosen:
            raise QuantctlError(f"{quoted(text)} says {value.role} twice", "name each selector once")
        chosen[value.role] = meant(value.role, str(value))
    return chosen


def all_choices(texts: Sequence[str]) -> list[str]:
    """The choices of several lists, each once and valid."""
    found = list(dict.fromkeys(choice for text in texts for choice in choices(text)))
    for one in found:
        selection(one)
    return found


_LONGEST = 80
"""Characters of a mode's part of a path."""


def file_name(mode: str) -> str:
    """A mode, or selectors, as part of a path: `linear-mxfp8_scale-floor_qk-mxfp4`.

    At most 80 characters. Of what is longer and of rules, where signs that a path cannot have tell them apart, some
    digits at the end are made of the whole text.
    """
    name = re.sub(r"[^\w.+-]+", "_", mode.replace("=", "-")).strip("_")
    if len(name) <= _LONGEST and SEPARATOR not in mode:
        return name
    from hashlib import sha256

    digits = sha256(" ".join(mode.split()).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9].rstrip('_.-')}-{digits}"


def is_cut(name: str) -> bool:
    """Whether a run's name has the digits that `file_name` gives to what it may have cut."""
    return re.search(r"-[0-9a-f]{8}(?![^_.-])", name) is not None
