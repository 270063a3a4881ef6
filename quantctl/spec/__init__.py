"""What a selector's literal says: formats (formats.py), operands (operands.py), rules for layers, modules and phases.

Imports the standard library and the ground's errors only: commands, generated scripts and training ranks share it.
"""

from quantctl.spec.formats import (
    ALIASES,
    ATTENTION_IMPLEMENTATIONS,
    FORMATS,
    NONE,
    SITE_DEFAULTS,
    SITES,
    FormatSpec,
    choice,
    names_of,
    parse,
)
from quantctl.spec.literals import SEPARATOR, Literal, canonical, literal
from quantctl.spec.operands import FORWARD, GRADIENT, OPERANDS, ORIGINAL, PRODUCTS, Operand, ProductSpecs, products
from quantctl.spec.resolution import Module, Resolved, Schedule, resolve

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
