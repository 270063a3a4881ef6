"""The table of rules: one module a family, each with its own part of the table in `RULES`."""

from __future__ import annotations

from quantctl.lint.rule import Rule
from quantctl.lint.rules import attention, flags, formats, fusions, layers, models, parallel, scripts

FAMILIES = {
    "flags": flags.RULES,
    "formats": formats.RULES,
    "layers": layers.RULES,
    "attention": attention.RULES,
    "fusions": fusions.RULES,
    "parallel": parallel.RULES,
    "models": models.RULES,
    "scripts": scripts.RULES,
}
"""Family -> its rules, in the order in which findings are shown."""

RULES: dict[str, Rule] = {rule.id: rule for rules in FAMILIES.values() for rule in rules}
"""Id -> rule."""
