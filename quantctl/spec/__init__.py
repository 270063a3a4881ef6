"""What a selector's literal says: formats (formats.py), operands (operands.py), rules for layers, modules and phases.

Imports the standard library and the ground's errors only: commands, generated scripts and training ranks share it.
Formats and plain specs come at once, the rest when it is asked for: a command on literals without scopes and rules does
not pay for them at its start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quantctl.spec.formats import (
    ALIASES,
    ATTENTION_IMPLEMENTATIONS,
    FORMATS,
    NONE,
    SEPARATOR,
    SITE_DEFAULTS,
    SITES,
    FormatSpec,
    canonical,
    choice,
    names_of,
    parse,
)

if TYPE_CHECKING:
    from quantctl.spec.literals import Literal, literal
    from quantctl.spec.operands import FORWARD, GRADIENT, OPERANDS, ORIGINAL, PRODUCTS, Operand, ProductSpecs, products
    from quantctl.spec.resolution import Module, Resolved, Schedule, resolve

_LATER = {
    "literals": ("Literal", "literal"),
    "operands": (
        *("FORWARD", "GRADIENT", "OPERANDS", "ORIGINAL", "PRODUCTS"),
        *("Operand", "ProductSpecs", "products"),
    ),
    "resolution": ("Module", "Resolved", "Schedule", "resolve"),
}
"""Module -> the names of it that come when they are asked for."""

__all__ = [
    "ALIASES",
    "ATTENTION_IMPLEMENTATIONS",
    "FORMATS",
    "FORWARD",
    "GRADIENT",
    "NONE",
    "OPERANDS",
    "ORIGINAL",
    "PRODUCTS",
    "SEPARATOR",
    "SITES",
    "SITE_DEFAULTS",
    "FormatSpec",
    "Literal",
    "Module",
    "Operand",
    "ProductSpecs",
    "Resolved",
    "Schedule",
    "canonical",
    "choice",
    "literal",
    "names_of",
    "parse",
    "products",
    "resolve",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"quantctl.spec.{module}"), name)
            return value
    raise AttributeError(f"module 'quantctl.spec' has no attribute {name!r}")
