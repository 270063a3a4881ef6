"""Commands of which some products go past the selectors that name them, while others are quantized: the proof, which
counts calls, finds nothing wrong with such a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantctl.errors import QuantctlError
from quantctl.lint.case import Setting
from quantctl.lint.judge import case_of
from quantctl.lint.megatron_flags import nearest
from quantctl.lint.rules import RULES
from quantctl.tree.state import read_state
from quantctl.tree.tree import Tree


def refuse(command: Sequence[str], tree: Tree, selectors: Mapping[str, str]) -> None:
    """Raises QuantctlError, with what to do, for such a training command on a tree with these selectors."""
    setting = Setting(nearest(tree.version()), tree.root, read_state(tree.root), selectors=selectors)
    case = case_of(command, setting)
    if case is None:
        return
    for rule in RULES.values():
        if rule.unseen and (hit := next(iter(rule.check(case)), None)):
            raise QuantctlError(hit.message, hit.fix or rule.fix)
