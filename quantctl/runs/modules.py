"""Modules that a run should have quantized and did not, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any


def _ranges(numbers: Sequence[int]) -> str:
    """0-3,5"""
    parts = []
    for _, group in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ in one number become one: decoder.layers.0-3.mlp.linear_fc2."""
    rows = {tuple(name.split(".")) for name in names}
    for place in reversed(range(max(map(len, rows), default=0))):
        groups: dict[tuple[str, ...], list[int]] = {}
        rest = set()
        for row in rows:
            if len(row) > place and row[place].isdecimal():
                groups.setdefault((*row[:place], "", *row[place + 1 :]), []).append(int(row[place]))
            else:
                rest.add(row)
        rows = rest | {(*row[:place], _ranges(found), *row[place + 1 :]) for row, found in groups.items()}
    return sorted(".".join(row) for row in rows)


def bypassed(site: str, wanted: str, ranks: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Problems of one site from what each rank's coverage says of it: kernels/measure/coverage.py's `report`."""
    found = {rank: seen for rank, seen in ranks.items() if seen.get("bypassed")}
    if not found:
        return []
    rank, seen = min(found.items())
    where = (
        f" on rank {rank}" + (f" (and on {len(found) - 1} more)" if len(found) > 1 else "") if len(ranks) > 1 else ""
    )
    return [
        f"{site} says {wanted}, but {len(seen['bypassed'])} of {seen['ran']} modules{where} went another way: "
        + ", ".join(fold(seen["bypassed"]))
    ]
