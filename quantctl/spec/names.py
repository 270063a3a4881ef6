"""Modules' names that differ in a number, written as one: decoder.layers.0-3,5.mlp.linear_fc2.

>>> fold(["layers.0.fc", "layers.1.fc", "layers.3.fc", "head"])
['head', 'layers.0-1,3.fc']
>>> unfold(["layers.0-1,3.fc"])
['layers.0.fc', 'layers.1.fc', 'layers.3.fc']
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby, product

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


_EXPERT = re.compile(r"(?<=\.local_experts\.)\d+(?=\.|$)")


def of_all_experts(name: str) -> str:
    """A module's name with a `*` for the number of its expert: under which those of a layer are counted together."""
    return _EXPERT.sub("*", name)


def ranges(numbers: Iterable[int]) -> str:
    """0-3,5"""
    parts = []
    for _, group in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ in one number become one."""
    rows = {tuple(name.split(".")) for name in names}
    for place in reversed(range(max(map(len, rows), default=0))):
        groups: dict[tuple[str, ...], list[int]] = {}
        rest = set()
        for row in rows:
            if len(row) > place and row[place].isdecimal():
                groups.setdefault((*row[:place], "", *row[place + 1 :]), []).append(int(row[place]))
            else:
                rest.add(row)
        rows = rest | {(*row[:place], ranges(found), *row[place + 1 :]) for row, found in groups.items()}
    return sorted(".".join(row) for row in rows)


def _numbers(part: str) -> list[str]:
    if not _RANGES.fullmatch(part):
        return [part]
    ends = [run.partition("-")[::2] for run in part.split(",")]
    return [str(number) for first, last in ends for number in range(int(first), int(last or first) + 1)]


def unfold(names: Iterable[str]) -> list[str]:
    """The single names that `fold` made these of."""
    return [".".join(row) for name in names for row in product(*map(_numbers, name.split(".")))]
