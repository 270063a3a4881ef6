"""Which spec holds for a product now: that of its module, where the model has named it, else the selector's.

A patched model gives each module that computes products a `quant_layer` once it is built. The patched statements hand
it to the products; nothing is looked for on anybody's stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantctl.spec.literals import SEPARATOR
from quantctl.spec.resolution import schedule_of


@dataclass(frozen=True)
class Named:
    """A module's name in its model, and what its selectors say of it, by site: a literal without layers and names."""

    name: str
    literals: Mapping[str, str] = field(default_factory=dict)


def spec_now(text: str, site: str, layer: Named | None = None) -> str:
    """The spec, without rules, that holds for this product of `site`; text: the selector's value.

    Raises QuantctlError for an unknown spec, and for rules of layers or modules where the module has no name.
    """
    said = text if layer is None else layer.literals[site]
    if SEPARATOR not in said:
        return said
    return schedule_of(said, site).at(1)
