"""What each module of a run computed, held against what its selectors say of it, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantctl.spec import NONE, SITES, literal
from quantctl.spec.names import fold, of_all_experts
from quantctl.spec.resolution import schedule_of

ByModule = dict[str, dict[str, dict[str, Any]]]
"""Module -> site -> `says`, a literal without layers and names, and `calls`, spec -> product -> number."""


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


def total(records: Iterable[Mapping[str, Any]]) -> ByModule:
    """The counts of all ranks by module. Every rank says the same of a module of which it has a part."""
    found: ByModule = {}
    for record in records:
        for name, sites in (record.get("by_module") or {}).items():
            for site, seen in sites.items():
                own = found.setdefault(name, {}).setdefault(site, {"says": seen["says"], "calls": {}})
                if own["says"] != seen["says"]:
                    own["says"] = ""
                for spec, products in seen["calls"].items():
                    sums = own["calls"].setdefault(spec, {})
                    for product, count in products.items():
                        sums[product] = sums.get(product, 0) + count
    return found


def wanted(site: str, text: str, found: ByModule) -> frozenset[str]:
    """The specs in which products of `site` may run, of all its modules together; empty where nothing says so."""
    said = literal(text, site)
    if not said.rules:
        return frozenset({said.base})
    return frozenset().union(
        *(schedule_of(seen["says"], site).specs for own in found.values() if (seen := own.get(site)) and seen["says"])
    )


def misled(site: str, found: ByModule) -> list[str]:
    """Problems of the named modules of one site: another spec than their own, or no product at all."""
    other: dict[tuple[str, str], list[str]] = {}
    never: dict[str, list[str]] = {}
    for name, own in found.items():
        if (seen := own.get(site)) is None:
            continue
        specs = schedule_of(seen["says"], site).specs if seen["says"] else frozenset[str]()
        for spec in seen["calls"].keys() - specs:
            other.setdefault((spec, seen["says"] or "nothing that all ranks agree on"), []).append(name)
        if not seen["calls"] and specs != {NONE}:
            never.setdefault(seen["says"], []).append(name)
    problems = [
        f"{', '.join(fold(names))}: {site} ran in {spec}, and its selector says {says}"
        for (spec, says), names in sorted(other.items())
    ]
    return problems + [
        f"{', '.join(fold(names))}: {site} should have run in {says}, and no such product was called"
        for says, names in sorted(never.items())
    ]


def unforeseen(foreseen: Mapping[str, Mapping[str, str]], found: ByModule, selectors: Mapping[str, str]) -> list[str]:
    """Where the named modules are others than was known before the run, or their selectors say something else of them.

    Ranks count the experts of a layer together where one thing is said of all of them.
    """
    asked = {site for site in SITES if selectors.get(site, NONE) != NONE}
    before = {
        (name if name in found else of_all_experts(name), site): text
        for name, said in foreseen.items()
        for site, text in said.items()
        if site in asked
    }
    after = {(name, site): seen["says"] for name, own in found.items() for site, seen in own.items()}
    other: dict[tuple[str, str, str], list[str]] = {}
    for name, site in before.keys() & after.keys():
        if before[name, site] != after[name, site]:
            other.setdefault((site, before[name, site], after[name, site]), []).append(name)
    problems = [
        f"{', '.join(fold(names))}: {site} was to run in {text}, and the ranks' model says {own}"
        for (site, text, own), names in sorted(other.items())
    ]
    missing, others = before.keys() - after.keys(), after.keys() - before.keys()
    if missing and not others:  # with others beside them it is a model that the flags do not describe
        names = ", ".join(fold(name for name, _ in missing))
        problems.append(f"the flags ask for {names}, which the ranks' model does not have")
    return problems
