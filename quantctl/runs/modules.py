"""Modules that a run should have quantized and did not, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantctl.spec.names import fold


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
