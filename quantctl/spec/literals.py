"""A selector's whole literal: a spec, then rules for layers, modules and phases, of which the last that fits holds.

    spec; condition ...: spec; condition ...: option,...

    >>> str(literal("mxfp4 ;layers 1-2 , -4..-1 : bf16; *.linear_fc2: mxfp8:scale=rceil"))
    'mxfp4; layers 1-2,-4..-1: none; linear_fc2: mxfp8'

Conditions (conditions.py) in front of one colon must all hold. Behind it stands a spec, which takes the place of all
that was said before, or options, which are laid over it: `from 80%: fprop.format=none`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from quantctl.errors import QuantctlError, quoted
from quantctl.spec.conditions import Condition, Phase, conditions_of
from quantctl.spec.formats import NONE, SEPARATOR, check
from quantctl.spec.forms import amended, canonical_spec, order
from quantctl.spec.operands import KEYS, ProductSpecs, products, split_items


@dataclass(frozen=True)
class Rule:
    """What holds where, and when."""

    conditions: tuple[Condition, ...]
    value: str
    """A canonical spec; or options, by which it changes what holds without the rule."""

    @property
    def amends(self) -> bool:
        return _amends(self.value)

    @property
    def keeps_none(self) -> bool:
        """Whether it is options without formats, which leave alone what is none."""
        return self.amends and "format=" not in self.value

    @property
    def phases(self) -> tuple[Phase, ...]:
        return tuple(one for one in self.conditions if isinstance(one, Phase))

    @property
    def head(self) -> str:
        return " ".join(map(str, self.conditions))

    def over(self, spec: str, site: str) -> str:
        """The spec that holds where this rule does and `spec` did."""
        if not self.amends:
            return self.value
        if spec == NONE and self.keeps_none:
            return NONE
        try:
            return canonical_spec(amended(spec, self.value.split(","), site), site)
        except QuantctlError as error:
            raise QuantctlError(f"`{self}` where {spec} holds: {error.message}", error.hint) from None

    def __str__(self) -> str:
        return f"{self.head}: {self.value}"


@dataclass(frozen=True)
class Literal:
    """A parsed literal."""

    site: str
    base: str
    """The canonical spec that holds where no rule does."""
    rules: tuple[Rule, ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether it says stock products for every module at all times."""
        return self.base == NONE and not self.rules

    @property
    def meaning(self) -> Hashable:
        """Equal for literals whose specs begin with another format and mean the same, rule by rule."""
        rules = (
            (frozenset(rule.conditions), rule.value if rule.amends else products(rule.value, self.site))
            for rule in self.rules
        )
        return products(self.base, self.site), *rules

    @property
    def formats(self) -> frozenset[str]:
        """Those that it names for an operand somewhere, sometime; without none."""
        found = set()
        for value in (self.base, *(rule.value for rule in self.rules)):
            if _amends(value):
                found |= {word.partition("=")[2] for word in value.split(",") if "format=" in word}
            else:
                found |= {operand.spec.format for _, operand in products(value, self.site).items()}
        return frozenset(found - {NONE})

    @property
    def products(self) -> frozenset[ProductSpecs]:
        """What it says somewhere, sometime: by its base, and by each rule over that."""
        found = {self.base}
        for rule in self.rules:
            with contextlib.suppress(QuantctlError):  # options that want another rule's spec under them
                found.add(rule.over(self.base, self.site))
        return frozenset(products(text, self.site) for text in found)

    def __str__(self) -> str:
        return f"{SEPARATOR} ".join([self.base, *map(str, self.rules)])


def _amends(value: str) -> bool:
    return "=" in value.partition(":")[0]


def _options(text: str, site: str) -> str:
    """Options of an amendment in canonical order. Raises QuantctlError for one that is none."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        key, equals, value = word.partition("=")
        if "." not in key and (key not in KEYS or key in ("format", "source") or not equals or not value):
            hint = f"options are {', '.join(f'{k}=...' for k in KEYS[1:-2])}, bwd=...; fprop.format=... with a scope"
            raise QuantctlError(f"{quoted(text)}: {quoted(word)} is no option", hint)
    plain, scoped = split_items(text, words, site)
    plain.sort(key=lambda word: KEYS.index(word.partition("=")[0]))
    return ",".join([*plain, *map(str, sorted(scoped, key=order))])


def _rule(text: str, site: str) -> Rule:
    head, colon, value = text.partition(":")
    value = value.strip()
    if not colon or not value:
        raise QuantctlError(
            f"{quoted(text.strip())} is no rule: it wants a condition, a colon and a spec", "such as `layers 1-2: none`"
        )
    conditions = conditions_of(head)
    return Rule(conditions, _options(value, site) if _amends(value) else canonical_spec(value, site))


@lru_cache(maxsize=256)
def literal(text: str, site: str = "linear") -> Literal:
    """The literal that `text` is at `site`. Raises QuantctlError that names the part that is wrong."""
    check(text, site)
    base, *rules = text.split(SEPARATOR)
    if rules and not rules[-1].strip():
        rules.pop()  # a list may end with its separator
    base = canonical_spec(base, site)
    return Literal(site, base, _effective(base, [_rule(rule, site) for rule in rules], site))


_MOST_SPECS = 16
"""Of a literal that may say more, later rules are looked at when its modules are known."""


def _effective(base: str, rules: Sequence[Rule], site: str) -> tuple[Rule, ...]:
    """The rules that may change something, whichever of those in front of them hold.

    Raises QuantctlError for options that say nothing of any spec that they may be laid over.
    """
    said, kept = [base], []
    for rule in rules:
        if len(said) > _MOST_SPECS:
            kept.append(rule)
            continue
        over, failed = {}, []
        for spec in said:
            try:
                over[spec] = rule.over(spec, site)
            except QuantctlError as error:
                failed.append(error)
        if not over:
            raise failed[0]
        if said == [NONE] and rule.keeps_none:
            raise QuantctlError(f"`{rule}` says nothing: no product has a format there", "give a spec: mxfp8:...")
        if failed or any(spec != new for spec, new in over.items()):
            kept.append(rule)
            said = list(dict.fromkeys([*said, *over.values()]))
    return tuple(kept)
