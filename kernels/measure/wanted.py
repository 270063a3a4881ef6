"""What `--stats` asks for: at which steps, sites and layers a training's products are measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from quantctl.errors import QuantctlError
from quantctl.spec import SITES

VARIABLE = "QUANTCTL_STATS"
"""How the wish reaches the ranks of a run."""


@dataclass(frozen=True)
class Wanted:
    """What is to be recorded."""

    every: int
    sites: frozenset[str]
    layers: frozenset[int] | None
    """Megatron's layer numbers, from 1; None means all."""


@lru_cache(maxsize=4)
def parse_wanted(text: str) -> Wanted:
    """`every=N[,sites=A+B][,layers=1+2]`. Raises QuantctlError that names the wrong part."""
    given = dict(word.partition("=")[::2] for word in text.split(","))
    usage = "write it as every=100, or every=100,sites=linear+qk,layers=1+16"
    if unknown := given.keys() - {"every", "sites", "layers"}:
        raise QuantctlError(f"--stats {text}: {min(unknown)!r} is no option of it", usage)
    try:
        every = int(given["every"])
        layers = frozenset(map(int, given["layers"].split("+"))) if "layers" in given else None
    except (KeyError, ValueError) as error:
        raise QuantctlError(f"--stats {text}: which steps, which layers?", usage) from error
    sites = frozenset(given["sites"].split("+")) if "sites" in given else frozenset(SITES)
    if every < 1 or not sites <= set(SITES):
        raise QuantctlError(f"--stats {text}: every is from 1 up, sites are {'+'.join(SITES)}", usage)
    return Wanted(every, sites, layers)
