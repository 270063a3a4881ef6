"""Selectors that a fork of Megatron brings along: `custom_quant_type = '...'` inside its functions.

Forks hard-code the format beside the product and dispatch on it, in one function or in several. The role comes from the
product that the value decides (flow.py finds it), never from a line number. A place of which that cannot be told
for certain is unclear: it is shown with the reason, and its file is not changed.

The whole file belongs to the fork then: quantctl inserts no selectors of its own beside somebody else's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quantctl.errors import QuantctlError, quoted
from quantctl.spec import NONE, canonical, names_of
from quantctl.tree.flow import Definition, Flow, key_of, targets_of
from quantctl.tree.source import Literal, Source

PREFIX = "custom_quant_type"

NOTE = (
    "the fork's own code decides what a format means there; in older forks mxfp8 is what quantctl calls "
    "mxfp8:elem=e5m2,scale=floor,round=away,bwd=high_precision"
)


@dataclass(frozen=True)
class Unclear:
    """A fork's selector that quantctl will not touch."""

    file: str
    line: int
    variable: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value!r}"
        return f"{self.file}:{self.line}: {self.variable}{value}: {self.reason}"


@dataclass(frozen=True)
class ForkSelector:
    """One literal of a fork whose role is known."""

    file: str
    roles: tuple[str, ...]
    """One, but for a place in a file of the fork's own, which may decide qk and pv together."""
    literal: Literal
    uses: int
    formats: frozenset[str]
    """The values that its branches ask for."""
    open: bool
    """Its code takes other values than those."""
    rejects: bool
    """It stops at values that it does not ask for."""

    @property
    def understood(self) -> bool:
        """Whether a branch of the fork asks for the value, or the value means the stock product."""
        value = self.literal.value
        return self.open or value in self.formats or (value in names_of(NONE) and not self.rejects)

    @property
    def role(self) -> str:
        return self.roles[0]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.literal.line}"

    @property
    def words(self) -> frozenset[str]:
        """The values that it can be given: what its branches ask for, and the stock product where it takes that."""
        return self.formats if self.rejects else self.formats | {NONE}

    def word(self, wanted: str) -> str:
        """What the fork calls `wanted`, a canonical spec or a word of its own. Raises QuantctlError if it has none."""
        where = f"{self.where}: this is a fork's own selector for {' and '.join(self.roles)}"
        knows = ", ".join(sorted(self.words))
        if ":" in wanted:
            raise QuantctlError(
                f"{where}; it takes plain format names, no options, scopes or rules, so it cannot be {quoted(wanted)}",
                f"give one of: {knows}",
            )
        if self.understood and wanted == canonical_or(self.literal.value, self.role):
            return self.literal.value
        if word := next((word for word in names_of(wanted) if word in self.formats), None):
            return word
        if self.open or (wanted == NONE and not self.rejects):
            return wanted
        raise QuantctlError(
            f"{where}, and no branch of it asks for {quoted(wanted)}: the stock product would run",
            f"give one of: {knows}",
        )


@dataclass(frozen=True)
class Survey:
    """A fork's selectors in one file."""

    selectors: tuple[ForkSelector, ...] = ()
    unclear: tuple[Unclear, ...] = ()
    decided: frozenset[tuple[int, int]] = frozenset()
    """Line and column of the products that some selector of the file decides."""

    def __bool__(self) -> bool:
        """Whether the file is a fork's."""
        return bool(self.selectors or self.unclear)

    def beside(self, line: int) -> Survey:
        """The survey of a file in which quantctl's selectors stand as well: nobody can say which of them rule."""
        reason = f"quantctl's own selectors stand in the same file (line {line})"
        clear = [
            Unclear(place.file, place.literal.line, PREFIX, place.literal.value, reason) for place in self.selectors
        ]
        return Survey((), tuple(sorted((*self.unclear, *clear), key=lambda place: place.line)), self.decided)


def canonical_or(value: str, role: str) -> str:
    """`value` in canonical form if it is a known spec, else as it stands."""
    try:
        return canonical(value, role)
    except QuantctlError:
        return value


Products = Mapping[str, tuple[str, ...]]
"""Which roles a product (baddbmm, bmm, linear, matmul, attention) plays in a file; none if it is not in there."""


def _is_selector(key: str | None) -> bool:
    return key is not None and key.rpartition(".")[2].startswith(PREFIX)


_Binding = tuple[str | None, ast.AST, ast.expr | None, str]
"""What is bound, where, to what, and what is wrong with it if that is no string literal."""


def _bindings(node: ast.AST) -> Iterator[_Binding]:
    """Each way in which `node` gives names a value."""
    computed = "its value is not a plain string"
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in targets_of(target):
                yield key_of(part), node, node.value if part is target else None, computed
    elif isinstance(node, (ast.AugAssign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.comprehension)):
        for part in targets_of(node.target):
            yield key_of(part), node.target, None, computed
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield key_of(node.optional_vars), node.optional_vars, None, computed
    elif isinstance(node, ast.alias):
        yield node.asname or node.name, node, None, "it is imported: what it says stands in another file"
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        defaults = [None] * (len(positional) - len(node.defaults)) + node.defaults
        for argument, default in zip([*positional, *node.kwonlyargs], [*defaults, *node.kw_defaults], strict=True):
            if default is not None:
                yield argument.arg, argument, None, "it is a parameter with a default: callers may say something else"


def _definitions(source: Source, ours: frozenset[str]) -> dict[int, Definition]:
    """Every assignment of a fork's variable, by identity of the statement; copies of it are none."""
    top = {id(node) for node in source.module.body}
    found: dict[int, Definition] = {}
    known = set(ours)
    mentions: dict[str, int] = {}
    for node in source.nodes:
        for key, place, value, objection in _bindings(node):
            if not _is_selector(key) or (id(node) in top and key in ours):
                continue
            assert key is not None
            known.add(key)
            if _is_selector(key_of(value)):
                continue
            literal = value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
            reason = None if literal else objection
            if literal and "." in key:
                reason = "it is an attribute: who reads it cannot be told"
            if id(place) in found:
                reason = "several names are assigned at once"
            found[id(place)] = Definition(key, getattr(place, "lineno", 1), literal, reason)
        if isinstance(node, ast.arg) and _is_selector(node.arg):
            known.add(node.arg)
            mentions.setdefault(node.arg, node.lineno)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            last = node.id if isinstance(node, ast.Name) else node.attr
            if last.startswith(PREFIX):
                mentions.setdefault(key_of(node) or last, node.lineno)
    for key, line in mentions.items():
        if key not in known or (not found and key not in ours):
            found[-line] = Definition(key, line, None, "no literal in this file decides it")
    return found


def _reason(definition: Definition, roles: set[str], products: Products, joint: bool) -> str | None:
    if definition.reason:
        return definition.reason
    if definition.rivals:
        lines = ", ".join(map(str, sorted(definition.rivals)))
        return f"it is assigned again on another path (line {lines}), so what holds at the product depends on the run"
    if len(roles) > 1 and not (joint and roles == {"qk", "pv"}):
        return f"it decides {' and '.join(sorted(roles))} together; give each an assignment of its own"
    if not roles and definition.products:
        return f"it decides a {', '.join(sorted(definition.products))}, which here is none of {', '.join(products)}"
    if not roles:
        return "it decides no product"
    return None


def survey(source: Source, products: Products, ours: frozenset[str] = frozenset(), joint: bool = False) -> Survey:
    """The fork's selectors in a file.

    Top-level assignments of the names `ours` are quantctl's own. `joint`: a place may decide qk and pv together, and
    places of one role may say different things.
    """
    if not products or PREFIX.encode() not in source.raw:
        return Survey()
    definitions = _definitions(source, ours)
    if not definitions:
        return Survey()
    flow = Flow(definitions)
    try:
        flow.run(source.module)
    except RecursionError:
        deep = "an expression of the file is nested too deeply to be followed"
        return Survey((), tuple(Unclear(source.name, f.line, f.variable, None, deep) for f in definitions.values()))
    in_order = sorted(definitions.values(), key=lambda found: found.line)
    decided = {id(found): set().union(*(products.get(kind, ()) for kind in found.products)) for found in in_order}
    the_role = set().union(*decided.values()) if len(set(products.values())) == 1 else set()
    at = frozenset(flow.decided)
    selectors: list[ForkSelector] = []
    unclear: list[Unclear] = []
    for found in in_order:
        roles = decided[id(found)]
        if not found.products and found.uses and found.uses == found.labels:
            roles = the_role  # it goes along, or what it labels would be wrong
        reason = _reason(found, roles, products, joint)
        if reason is None and found.value is not None:
            literal = source.literal(found.value)
            formats = frozenset(found.formats)
            selectors.append(
                ForkSelector(
                    source.name,
                    tuple(sorted(roles, reverse=True)),  # qk before pv
                    literal,
                    len(found.uses),
                    formats,
                    found.open or not found.products,
                    found.rejects,
                )
            )
        else:
            value = str(found.value.value) if found.value else None
            unclear.append(Unclear(source.name, found.line, found.variable, value, str(reason)))
    found_here = Survey(tuple(selectors), tuple(unclear), at)
    return found_here if joint else _agreeing(source.name, found_here)


def _agreeing(file: str, found: Survey) -> Survey:
    """The survey with the selectors of a role taken out if they say different things."""
    says: dict[str, set[str]] = {}
    for selector in found.selectors:
        says.setdefault(selector.role, set()).add(canonical_or(selector.literal.value, selector.role))
    torn = {role for role, values in says.items() if len(values) > 1}
    unclear = [
        Unclear(file, place.literal.line, PREFIX, place.literal.value, f"the places that decide {place.role} disagree")
        for place in found.selectors
        if place.role in torn
    ]
    return Survey(
        tuple(place for place in found.selectors if place.role not in torn),
        tuple(sorted((*found.unclear, *unclear), key=lambda place: place.line)),
        found.decided,
    )
