"""Which options Megatron-LM's command line has in each release: defaults, choices, numbers of values.

The tables beside this module were read from the live parsers (tests/support/megatron_flags.py writes them), because
many options come from dataclasses since 0.16 and stand in no `add_argument`. One line an option, without what is usual:

    "--bf16": {"nargs": 0}                           a switch
    "--num-layers": {"type": "int"}                  one value, default None
    "--rampup-batch-size": {"nargs": 3, "type": "int"}

This module imports nothing but the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

MAIN = "main"
"""Megatron-LM's main branch as of August 2026, on its way to 0.20."""
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Option:
    """One option string of a release's parser."""

    name: str
    """As it is written: `--num-layers`."""
    nargs: int | str = 1
    """How many values follow: 0 (a switch), 1, 3, `?`, `*` or `+`."""
    type: str | None = None
    """int, float, str, bool, or the name of Megatron's own function; None takes the text as it is."""
    default: str = "None"
    """repr of the default without quotes; a switch says False where it stores true, True where it stores false."""
    choices: tuple[str, ...] | None = None
    """What a value may be, as it is typed on the command line; None takes any."""
    dest: str | None = None
    """The attribute of `args`, where it is not the name with underscores."""

    @property
    def is_switch(self) -> bool:
        return self.nargs == 0

    @property
    def attribute(self) -> str:
        """The attribute of Megatron's `args` that it sets."""
        return self.dest or self.name.lstrip("-").replace("-", "_")


def _order(release: str) -> tuple[float, ...]:
    return (float("inf"),) if release == MAIN else tuple(map(int, release.split(".")))


@lru_cache(maxsize=1)
def releases() -> tuple[str, ...]:
    """The releases that have a table, oldest first, `main` last."""
    return tuple(sorted((path.stem for path in _FOLDER.glob("*.json")), key=_order))


@lru_cache(maxsize=16)
def table(release: str) -> Mapping[str, Option]:
    """Option string -> option. Raises KeyError for a release that is not in `releases()`; see `nearest`."""
    if release not in releases():
        raise KeyError(release)
    rows = json.loads((_FOLDER / f"{release}.json").read_bytes())
    return MappingProxyType({name: _option(name, row) for name, row in rows.items()})


def _option(name: str, row: dict[str, int | str | list[str] | None]) -> Option:
    default = "False" if row.get("nargs") == 0 else "None"
    choices = row.pop("choices", None)
    fields = {"default": default} | row
    return Option(name, choices=tuple(choices) if isinstance(choices, list) else None, **fields)  # type: ignore[arg-type]


def nearest(version: str) -> str:
    """The release whose table describes a tree of `version` (megatron/core/package_info.py) best.

    The same minor series if there is a table of it, else the last one before; older than all: the oldest. What is newer
    than the last release, and a version that cannot be read, is `main`.
    """
    if version in releases():
        return version
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", version)
    if found is None:
        return MAIN
    wanted = (int(found[1]), int(found[2]))
    numbered = [release for release in releases() if release != MAIN]
    series = {release: _order(release)[:2] for release in numbered}
    if wanted > series[numbered[-1]]:
        return MAIN
    return next((release for release in reversed(numbered) if series[release] <= wanted), numbered[0])


def at_least(release: str, other: str) -> bool:
    """Whether a release's minor series is that of another, or a later one."""
    return _order(release)[:2] >= _order(other)[:2]


def holders(option: str) -> tuple[str, ...]:
    """The releases that know an option string, oldest first; empty if none does."""
    return tuple(release for release in releases() if option in table(release))
