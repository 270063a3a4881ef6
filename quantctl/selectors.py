"""The selectors of a tree: which there are, what they say, and how to make them say something else.

Reading and rewriting use the interpreter's own parser for positions: it takes 4 ms on Megatron's layers.py where a
concrete syntax tree with positions takes 120, and the bytes between the quotes are all that ever changes.
Inserting selectors into stock files is quantctl.editor's work.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from quantctl.errors import QuantctlError
from quantctl.source import Source
from quantctl.spec import canonical

LAYERS = "megatron/core/tensor_parallel/layers.py"
ATTENTION = "megatron/core/transformer/dot_product_attention.py"


@dataclass(frozen=True)
class Selector:
    """One choice that a patched tree offers."""

    role: str
    """The site it rules: linear, lm_head, qk, pv."""
    file: str
    """Where its constant stands, relative to the tree."""
    products: str
    """What it covers, for people."""

    @property
    def variable(self) -> str:
        return f"custom_quant_type_{self.role}"


SELECTORS = {
    selector.role: selector
    for selector in (
        Selector("linear", LAYERS, "fprop, dgrad and wgrad of every linear layer but the output layer"),
        Selector("lm_head", LAYERS, "the same products of the output layer"),
        Selector("qk", ATTENTION, "attention scores, Q K^T"),
        Selector("pv", ATTENTION, "attention output, P V"),
    )
}


@dataclass(frozen=True)
class Located:
    """A selector as it stands in a file."""

    role: str
    value: str
    line: int
    start: int
    """First byte of the string literal, quotes included."""
    end: int
    uses: int
    """How often the file reads the constant; 0 means that nothing obeys it."""


def _assignments(module: ast.Module, variable: str) -> list[ast.expr]:
    values = []
    for node in module.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            values.append(value)
    return values


def locate(source: Source) -> dict[str, Located]:
    """The selectors in one file by role; empty for a stock file.

    Raises QuantctlError when a selector is assigned twice or is no plain string.
    """
    if b"custom_quant_type_" not in source.raw:
        return {}
    found = {}
    for selector in SELECTORS.values():
        values = _assignments(source.module, selector.variable)
        if not values:
            continue
        if len(values) > 1:
            lines = ", ".join(str(value.lineno) for value in values)
            raise QuantctlError(
                f"{source.name} assigns {selector.variable} {len(values)} times (lines {lines})",
                "keep one assignment at the top of the file",
            )
        (value,) = values
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            raise QuantctlError(
                f"{source.name}:{value.lineno}: {selector.variable} is not a plain string",
                f"write it as {selector.variable} = 'none'",
            )
        uses = sum(
            isinstance(node, ast.Name) and node.id == selector.variable and isinstance(node.ctx, ast.Load)
            for node in ast.walk(source.module)
        )
        found[selector.role] = Located(selector.role, value.value, value.lineno, *source.span(value), uses)
    return found


def known_value(role: str, value: str) -> bool:
    try:
        canonical(value, role)
    except QuantctlError:
        return False
    return True


def _literal_like(old: bytes, value: str) -> bytes:
    """`value` as a string literal with the quote that `old` uses."""
    quote = b'"' if old.rstrip()[-1:] == b'"' else b"'"
    return quote + value.encode("ascii") + quote


def rewrite(source: Source, values: dict[str, str]) -> bytes:
    """The file with the literals of `values` (role to spec) replaced and every other byte as it was.

    Roles that the file does not hold are left to its neighbours. Values are written in canonical form.
    Raises QuantctlError when the result would not read back as asked.
    """
    located = locate(source)
    wanted = {role: canonical(value, role) for role, value in values.items() if role in located}
    raw = source.raw
    for place in sorted((located[role] for role in wanted), key=lambda place: -place.start):
        if place.value != wanted[place.role]:
            literal = _literal_like(raw[place.start : place.end], wanted[place.role])
            raw = raw[: place.start] + literal + raw[place.end :]
    verify(Source(raw, source.name), wanted)
    return raw


def verify(source: Source, wanted: dict[str, str]) -> None:
    """Compile the file, read its selectors again and compare them with what was asked."""
    compile(source.module, source.name, "exec")
    found = locate(source)
    for role, value in wanted.items():
        if role not in found or found[role].value != value:
            says = found[role].value if role in found else "nothing"
            raise QuantctlError(
                f"{source.name}: after the edit {role} would say {says!r} instead of {value!r}; nothing was written",
                "please report this file",
            )
