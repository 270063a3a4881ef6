"""The releases of Megatron that tests run on: some of them daily, all of them with `make releases`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest

RELEASES = (
    *("0.10.0", "0.11.0", "0.12.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1", "0.17.1", "0.18.2", "0.19.0"),
    *("0.19.2", "main"),
)


def daily(always: Collection[str], releases: Iterable[str] = RELEASES) -> list[object]:
    """Parameters for a test that trains on `releases`: those of `always` daily."""
    return [pytest.param(name, marks=[] if name in always else pytest.mark.releases) for name in releases]
