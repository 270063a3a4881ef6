"""What selectors say of a whole model that is known by its modules alone: no layer of it has to be built.

>>> outline = Outline(1, {"linear": (Module("decoder.layers.0.mlp.linear_fc1", 1),)})
>>> resolved({"linear": "mxfp8"}, outline)
{'decoder.layers.0.mlp.linear_fc1': {'linear': 'mxfp8'}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from quantctl.errors import QuantctlError
from quantctl.spec.conditions import Module
from quantctl.spec.formats import SITES
from quantctl.spec.resolution import Resolved, resolve, unmatched


@dataclass(frozen=True)
class Outline:
    """A model's modules that compute products, over all pipeline stages; experts as one rank numbers its own."""

    layers: int
    modules: Mapping[str, tuple[Module, ...]]
    """By site, in the order of the model."""


class Foreseen(NamedTuple):
    """What a run is to compute, known before it starts."""

    document: dict[str, Any]
    """For its manifest: table.document."""
    by_module: dict[str, dict[str, str]]
    """For its proof: `resolved`."""


def by_site(selectors: Mapping[str, str], outline: Outline, steps: int | None = None) -> dict[str, Resolved]:
    """What each site's literal says of its modules, for the sites that are selectors of.

    Raises QuantctlError for a literal that is none, a rule that fits no module, a layer that does not exist and a phase
    that never comes in a training of `steps` steps.
    """
    found = {}
    for site in SITES:
        if site not in selectors:
            continue
        try:
            found[site] = _of_site(selectors[site], site, outline, steps)
        except QuantctlError as error:
            raise QuantctlError(f"{site}: {error.message}", error.hint) from None
    return found


def _of_site(text: str, site: str, outline: Outline, steps: int | None) -> Resolved:
    modules = outline.modules[site]
    found = resolve(text, site, modules, layers=outline.layers, steps=steps)
    for rule, fits in zip(found.literal.rules, found.matched, strict=True):
        if not fits:
            raise unmatched(rule, {module.within for module in modules})
    return found


def resolved(selectors: Mapping[str, str], outline: Outline, steps: int | None = None) -> dict[str, dict[str, str]]:
    """Module's name -> site -> its schedule, written as a literal without layers and names. Raises as `by_site`."""
    return by_module(by_site(selectors, outline, steps))


def by_module(found: Mapping[str, Resolved]) -> dict[str, dict[str, str]]:
    """The same of what is resolved."""
    said: dict[str, dict[str, str]] = {}
    for site, one in found.items():
        for name, schedule in one.schedules.items():
            said.setdefault(name, {})[site] = str(schedule)
    return said
