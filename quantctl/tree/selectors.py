"""The selectors of a tree: which there are, what they say, and how to make them say something else.

Reading and rewriting use the interpreter's own parser for positions: it takes 4 ms on Megatron's layers.py where a
concrete syntax tree with positions takes 120, and the bytes between the quotes are all that ever changes.
Inserting selectors into stock files is quantctl.tree.edit's work; finding those of a fork is quantctl.tree.forks'.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from quantctl.errors import QuantctlError
from quantctl.modes import canonical_value
from quantctl.patches.patch import ATTENTION, LAYERS
from quantctl.spec import ATTENTION_IMPLEMENTATIONS, NONE
from quantctl.tree.forks import ForkSelector, Survey, canonical_or, survey
from quantctl.tree.source import Literal, Source, source_of


@dataclass(frozen=True)
class Selector:
    """One choice that a patched tree offers."""

    role: str
    """What it rules: a site (linear, lm_head, qk, pv), or how attention is computed."""
    file: str
    """Where its constant stands, relative to the tree."""
    products: str
    """What it covers, for people."""
    decides: tuple[str, ...] = ()
    """The products (baddbmm, bmm, matmul) in that file by which a fork's own selector is known to be this one."""
    constant: str = ""
    """Its name in the file, where that is not made of the role."""
    choices: tuple[str, ...] = ()
    """Its values, that of a freshly patched tree first; empty where it takes a format spec."""
    indifferent: tuple[str, ...] = (NONE,)
    """Values that ask for nothing: a tree that lacks the selector does what they say."""

    @property
    def variable(self) -> str:
        return self.constant or f"custom_quant_type_{self.role}"

    @property
    def default(self) -> str:
        """Its value in a freshly patched tree: everything as in stock."""
        return self.choices[0] if self.choices else NONE

    def canonical(self, value: str) -> str:
        """`value` as it stands in a file. Raises QuantctlError if it is unknown."""
        return canonical_value(self.role, value)


SELECTORS = {
    selector.role: selector
    for selector in (
        Selector(
            "linear",
            LAYERS,
            "fprop, dgrad and wgrad of every linear layer but the output layer",
            ("linear", "matmul", "bmm", "baddbmm"),
        ),
        Selector("lm_head", LAYERS, "the same products of the output layer"),
        Selector("qk", ATTENTION, "attention scores, Q K^T", ("baddbmm", "attention")),
        Selector("pv", ATTENTION, "attention output, P V", ("bmm", "attention")),
        Selector(
            "attention",
            ATTENTION,
            "how attention is computed: step by step, in one fused kernel, or fused where that can be",
            constant="custom_attention_impl",
            choices=ATTENTION_IMPLEMENTATIONS,
            indifferent=("unfused", "auto"),
        ),
    )
}


OURS = frozenset(selector.variable for selector in SELECTORS.values())
MARKS = (b"custom_quant_type", b"custom_attention_impl")
"""A file with neither of them holds no selector, a fork's included."""


@dataclass(frozen=True)
class Located:
    """A selector as it stands in a file."""

    role: str
    literals: tuple[Literal, ...]
    """One in a patched file. A fork may have several (forward, backward), which all mean the same."""
    uses: int
    """How often the file reads the constant; 0 means that nothing obeys it."""
    fork: tuple[ForkSelector, ...] = ()
    """What the fork says about each of `literals`; empty in a patched file."""

    @property
    def value(self) -> str:
        return self.literals[0].value

    def words(self, wanted: str) -> list[str]:
        """What each of the literals is to say. Raises QuantctlError if the fork has no word for it."""
        return [place.word(wanted) for place in self.fork] or [wanted]

    @property
    def lines(self) -> str:
        """The lines of the literals, for people."""
        return ",".join(str(literal.line) for literal in self.literals)


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


@lru_cache(maxsize=16)
def fork_of(source: Source) -> Survey:
    """The selectors that a fork brings along in this file; false if it has none."""
    here = [selector for selector in SELECTORS.values() if selector.file == source.name]
    products = {product for selector in here for product in selector.decides}
    roles = {product: tuple(s.role for s in here if product in s.decides) for product in sorted(products)}
    found = survey(source, roles, OURS)
    patched = [value.lineno for name in OURS for value in _assignments(source.module, name)] if found else []
    return found.beside(min(patched)) if patched else found


@lru_cache(maxsize=32)
def locate(source: Source) -> Mapping[str, Located]:
    """The selectors in one file by role; empty for a stock file.

    Raises QuantctlError when one of quantctl's own is assigned twice or is no plain string.
    """
    if not any(mark in source.raw for mark in MARKS):
        return {}
    found: dict[str, Located] = {}
    uses = Counter(
        node.id
        for node in source.nodes
        if isinstance(node, ast.Name) and node.id in OURS and isinstance(node.ctx, ast.Load)
    )
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
                f"write it as {selector.variable} = {selector.default!r}",
            )
        found[selector.role] = Located(selector.role, (source.literal(value),), uses[selector.variable])
    fork = fork_of(source)
    for role in {place.role for place in fork.selectors}:
        places = tuple(place for place in fork.selectors if place.role == role)
        read = min(place.uses for place in places)
        found[role] = Located(role, tuple(place.literal for place in places), read, places)
    return found


def known_value(role: str, value: str) -> bool:
    try:
        SELECTORS[role].canonical(value)
    except QuantctlError:
        return False
    return True


def _literal_like(old: bytes, value: str) -> bytes:
    """`value` as a string literal with the quote that `old` uses."""
    quote = b'"' if old.rstrip()[-1:] == b'"' else b"'"
    return quote + value.encode("ascii") + quote


def rewrite(source: Source, values: dict[str, str]) -> bytes:
    """The file with the literals of `values` (role to spec) replaced and every other byte as it was.

    Roles that the file does not hold are left to its neighbours. Values are written in canonical form, in a fork's
    words where the selector is the fork's. Raises QuantctlError when the file holds a fork's selector that is unclear,
    when the fork does not know the format, and when the result would not read back as asked.
    """
    located = locate(source)
    _refuse_unclear(source, values)
    wanted = {role: _meant(role, value, located[role].fork) for role, value in values.items() if role in located}
    edits = [
        (literal, new)
        for role, spec in wanted.items()
        for literal, new in zip(located[role].literals, located[role].words(spec), strict=True)
        if literal.value != new
    ]
    raw = _with_literals(source, edits)
    verify(source_of(raw, source.name), wanted)
    return raw


def _meant(role: str, value: str, fork: Sequence[ForkSelector]) -> str:
    """`value` in canonical form, or as it stands where it is a word of the fork's own."""
    if fork and all(value in place.words for place in fork):
        return canonical_or(value, role)
    return SELECTORS[role].canonical(value)


def rewrite_places(source: Source, found: Survey, values: Mapping[str, str]) -> bytes:
    """A file of the fork's own with its selectors set, as far as `values` names their roles.

    Raises QuantctlError when a place is unclear or decides several roles of which `values` asks different things, and
    when the fork has no word for what is asked.
    """
    edits = []
    for place in found.selectors:
        says = canonical_or(place.literal.value, place.role)
        wanted = {_meant(role, values[role], (place,)) if role in values else says for role in place.roles}
        if wanted == {says}:
            continue
        if len(wanted) > 1:
            raise QuantctlError(
                f"{place.where}: this place decides {' and '.join(place.roles)} together, and is {says!r}",
                f"give {' and '.join('--' + role.replace('_', '-') for role in place.roles)} the same value",
            )
        edits.append((place.literal, place.word(*wanted)))
    if edits and found.unclear:
        raise QuantctlError(str(found.unclear[0]), "give every product an assignment of its own; nothing was changed")
    raw = _with_literals(source, edits)
    source_of(raw, source.name).compile()
    return raw


def _with_literals(source: Source, edits: Sequence[tuple[Literal, str]]) -> bytes:
    raw = source.raw
    for literal, new in sorted(edits, key=lambda edit: -edit[0].start):
        old = raw[literal.start : literal.end]
        if b"#" in old:
            raise QuantctlError(
                f"{source.name}:{literal.line}: a comment stands between the parts of the string {literal.value!r}",
                f"write it as one string first: {literal.value!r}",
            )
        raw = raw[: literal.start] + _literal_like(old, new) + raw[literal.end :]
    return raw


def _refuse_unclear(source: Source, values: dict[str, str]) -> None:
    if unclear := fork_of(source).unclear:
        asked = [role for role in values if SELECTORS[role].file == source.name]
        if asked:
            raise QuantctlError(
                f"{', '.join(asked)} cannot be set; this fork's own selectors are unclear:\n"
                + "\n".join(f"  {place}" for place in unclear),
                "give every product an assignment of its own, right before it; nothing was changed",
            )


def verify(source: Source, wanted: dict[str, str]) -> None:
    """Compile the file, read its selectors again and compare them with what was asked."""
    source.compile()
    found = locate(source)
    for role, value in wanted.items():
        says = {canonical_or(literal.value, role) for literal in found[role].literals} if role in found else set()
        if says != {value}:
            raise QuantctlError(
                f"{source.name}: after the edit {role} would say {', '.join(sorted(says)) or 'nothing'} instead of "
                f"{value!r}; nothing was written",
                "please report this file",
            )
