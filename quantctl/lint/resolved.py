"""What the selectors say of each module of the model that a command trains: the resolved table, before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.lint import unseen
from quantctl.lint.case import Case, Setting
from quantctl.lint.judge import case_of
from quantctl.lint.megatron_flags import nearest
from quantctl.lint.outline import Unknown, outline, steps
from quantctl.spec import Literal, Resolved, literal
from quantctl.spec import table as layout
from quantctl.spec.literals import Rule
from quantctl.spec.outline import Foreseen, Outline, by_module, by_site
from quantctl.tree.state import read_state
from quantctl.tree.tree import Tree


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


def table(case: Case) -> Table | Unknown:
    """Of the command's selectors, those that are literals. Raises QuantctlError for what no module or step fits."""
    if case.selectors is None:
        return Unknown("what its selectors say is not known")
    model = outline(case)
    if isinstance(model, Unknown):
        return model
    said = {site: found for site, text in case.selectors.items() if (found := _literal(text, site))}
    length = steps(case)
    if length is None and has_shares(case):
        return Unknown("its phases are shares of a training whose length its flags do not say")
    return Table(model, length, by_site({site: str(one) for site, one in said.items()}, model, length))


def foreseen(command: Sequence[str], tree: Tree, selectors: Mapping[str, str] | None = None) -> Foreseen | None:
    """The table of a training command on a tree with these selectors; None where it is not known.

    `selectors` may be left out where `quantctl exec` stands in the command with its own.

    Raises QuantctlError for selectors that speak of what the model or its training does not have, and for products that
    would go past a selector without anybody's noticing.
    """
    case = case_of(command, Setting(nearest(tree.version()), tree.root, read_state(tree.root), selectors=selectors))
    if case is None:
        return None
    unseen.refuse(case)
    found = table(case)
    return None if isinstance(found, Unknown) else Foreseen(found.document(), by_module(found.found))


def _literal(text: str, site: str) -> Literal | None:
    """None: a fork's own word, or a value that is an error of its own."""
    try:
        return literal(text, site)
    except QuantctlError:
        return None


def has_rules(case: Case) -> bool:
    """Whether a selector speaks of layers, modules or phases, which a model may not have."""
    return any(True for _ in _rules(case))


def has_shares(case: Case) -> bool:
    """Whether a phase begins or ends with a share of the training."""
    return any(phase.bound.endswith("%") for rule in _rules(case) for phase in rule.phases)


def _rules(case: Case) -> Iterator[Rule]:
    for site, text in (case.selectors or {}).items():
        if said := _literal(text, site):
            yield from said.rules
