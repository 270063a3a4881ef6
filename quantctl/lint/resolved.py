"""What the selectors say of each module of the model that a command trains: the resolved table, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.lint.case import Case
from quantctl.lint.outline import Unknown, outline, steps
from quantctl.spec import Literal, Resolved, literal
from quantctl.spec import table as layout
from quantctl.spec.outline import Outline, by_site


@dataclass(frozen=True)
class Table:
    """Selectors, a model and the length of its training."""

    outline: Outline
    steps: int | None
    """None: the flags do not say."""
    found: Mapping[str, Resolved]

    def lines(self) -> list[str]:
        return layout.lines(self.found, self.outline)

    def document(self) -> dict[str, Any]:
        return layout.document(self.found, self.outline, self.steps)


def has_rules(case: Case) -> bool:
    """Whether a selector speaks of layers, modules or phases, which a model may not have."""
    return any((said := _literal(text, site)) and said.rules for site, text in (case.selectors or {}).items())


def table(case: Case) -> Table | Unknown:
    """Of the command's selectors, those that are literals. Raises QuantctlError for what no module or step fits."""
    if case.selectors is None:
        return Unknown("what its selectors say is not known")
    model = outline(case)
    if isinstance(model, Unknown):
        return model
    said = {site: found for site, text in case.selectors.items() if (found := _literal(text, site))}
    length = steps(case)
    if length is None and any(_is_share(one) for one in said.values()):
        return Unknown("its phases are shares of a training whose length its flags do not say")
    return Table(model, length, by_site({site: str(one) for site, one in said.items()}, model, length))


def _literal(text: str, site: str) -> Literal | None:
    """None: a fork's own word, or a value that is an error of its own."""
    try:
        return literal(text, site)
    except QuantctlError:
        return None


def _is_share(said: Literal) -> bool:
    return any(phase.bound.endswith("%") for rule in said.rules for phase in rule.phases)
