"""Specs whose options are scoped: the numerics of each operand of a site's three products.

    format[:option,...]     an option is key=value behind its scope: `product.`, `operand.` or `product.operand.`

    >>> products("mxfp4:gradient.round=stochastic").dgrad[0].spec.round
    'stochastic'
    >>> products("mxfp8:wgrad.format=none").wgrad[1].spec.is_none
    True

Products and operands, by site (fprop, dgrad, wgrad): linear and lm_head (input, weight), (gradient, weight), (gradient,
input); qk (query, key), (gradient, key), (gradient, query); pv (probabilities, value), (gradient, value), (gradient,
probabilities). The narrower scope wins. A scoped `format` begins with that format's defaults, so that what is said in
a broader scope than its own does not reach it; an option reaches each operand of its scope whose format has it. `bwd`
is a short way to write the gradient products' formats and sources, for both or for one (wgrad.bwd=high_precision).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from quantctl.errors import QuantctlError, quoted, unknown
from quantctl.spec.formats import (
    FORMATS,
    NONE,
    FormatSpec,
    check,
    defaults_of,
    format_named,
    refuse,
    spec_of,
    split,
)
from quantctl.spec.needs import fitting

PRODUCTS = ("fprop", "dgrad", "wgrad")
GRADIENT = "gradient"
OPERANDS = {
    "linear": ("input", "weight"),
    "lm_head": ("input", "weight"),
    "qk": ("query", "key"),
    "pv": ("probabilities", "value"),
}
"""The forward operands of a site; the gradient products have the incoming gradient and one of them."""
ORIGINAL, FORWARD = "original", "forward"
SOURCES = (ORIGINAL, FORWARD)
"""What a gradient product begins with: the operand as it was, or the values that the forward computed with."""

Slot = tuple[str, str]


@dataclass(frozen=True)
class Operand:
    """One operand of one product. What it is quantized to may be none."""

    spec: FormatSpec
    """Without `bwd`, which is no matter of a single operand."""
    source: str = ORIGINAL


@dataclass(frozen=True)
class ProductSpecs:
    """The numerics of the three products of a site. Each: what the gradient or first operand is, then the second."""

    site: str
    fprop: tuple[Operand, Operand]
    """Input and weight; query and key; probabilities and value."""
    dgrad: tuple[Operand, Operand]
    """The gradient, and the forward's second operand."""
    wgrad: tuple[Operand, Operand]
    """The gradient, and the forward's first operand."""

    @property
    def is_none(self) -> bool:
        """Whether every product is the stock one."""
        return all(operand.spec.is_none for operand in (*self.fprop, *self.dgrad, *self.wgrad))

    def items(self) -> Iterator[tuple[Slot, Operand]]:
        """(product, operand's name) and what holds for it, in the order of PRODUCTS."""
        return zip(slots(self.site), (*self.fprop, *self.dgrad, *self.wgrad), strict=True)

    def is_quantized(self, product: str) -> bool:
        """Whether an operand of the product is not the original one."""
        return any(not one.spec.is_none or one.source == FORWARD for one in getattr(self, product))


def slots(site: str) -> tuple[Slot, ...]:
    """(product, operand) of all six operands, in the order of ProductSpecs' fields."""
    first, second = OPERANDS[site]
    return (
        ("fprop", first),
        ("fprop", second),
        ("dgrad", GRADIENT),
        ("dgrad", second),
        ("wgrad", GRADIENT),
        ("wgrad", first),
    )


class Item(NamedTuple):
    """One scoped option."""

    product: str | None
    operand: str | None
    key: str
    value: str

    @property
    def depth(self) -> int:
        """How narrow the scope is: 1 for a product or an operand, 2 for both."""
        return (self.product is not None) + (self.operand is not None)

    def covers(self, slot: Slot) -> bool:
        return self.product in (None, slot[0]) and self.operand in (None, slot[1])

    def within(self, other: Item) -> bool:
        """Whether this scope is that of `other`, or a part of it."""
        return other.product in (None, self.product) and other.operand in (None, self.operand)

    def __str__(self) -> str:
        return ".".join(filter(None, (self.product, self.operand, self.key))) + f"={self.value}"


_OPTIONS = tuple(dict.fromkeys(key for options in FORMATS.values() for key in options if key != "bwd"))
KEYS = ("format", *_OPTIONS, "source", "bwd")
_VALUES: dict[str, tuple[str, ...]] = {
    "source": SOURCES,
    "bwd": tuple(dict.fromkeys(value for options in FORMATS.values() for value in options["bwd"])),
}


def values_of(key: str) -> tuple[str, ...]:
    """What an option may be said to be somewhere; of a format its own name."""
    if key == "format":
        return (NONE, *FORMATS)
    return _VALUES.get(key) or tuple(sorted({value for options in FORMATS.values() for value in options.get(key, ())}))


def item_of(text: str, word: str, site: str) -> Item:
    """The option that `word` is, of the spec `text`. Raises QuantctlError for an unknown scope, key or value."""
    path, equals, value = word.partition("=")
    *scope, key = path.split(".")
    known = (*PRODUCTS, *OPERANDS[site], GRADIENT)
    for part in scope:
        if part not in known:
            error = unknown("scope", part, known)
            raise QuantctlError(f"{quoted(text)} is not a format spec: {error.message} in {quoted(word)}", error.hint)
    product = next((part for part in scope if part in PRODUCTS), None)
    operand = next((part for part in scope if part not in PRODUCTS), None)
    if list(filter(None, (product, operand))) != scope:
        raise refuse(text, f"the scope of {quoted(word)}", "", ("product.", "operand.", "product.operand."))
    if not equals or key not in KEYS:
        raise refuse(text, f"{quoted(word)} is no option", f"{key}=...", [f"{known}=..." for known in KEYS])
    if key == "format":
        value = format_named(text, value)
    elif value not in (allowed := values_of(key)):
        raise refuse(text, f"{path}={value[:60]}", "", [f"{path}={v}" for v in allowed])
    item = Item(product, operand, key, value)
    in_scope = [slot for slot in slots(site) if item.covers(slot)]
    if not in_scope:
        names = " and ".join(name for there, name in slots(site) if there == product)
        raise QuantctlError(f"{quoted(text)}: {product} has no {operand} at {site}", f"its operands are {names}")
    if key == "bwd" and (operand is not None or product == "fprop"):
        raise QuantctlError(f"{quoted(text)}: {path} is no option: bwd is one of dgrad and wgrad", f"dgrad.bwd={value}")
    if key == "source" and not any(there != "fprop" and name != GRADIENT for there, name in in_scope):
        choices = ", ".join(f"{there}.{name}" for there, name in slots(site) if there != "fprop" and name != GRADIENT)
        raise QuantctlError(f"{quoted(text)}: {path} has no choice of sources", f"these have: {choices}")
    return item


def split_items(text: str, words: Sequence[str], site: str) -> tuple[list[str], list[Item]]:
    """Unscoped options as they are written, and the scoped ones. Raises QuantctlError for one that is given twice."""
    scoped = [item_of(text, word, site) for word in words if "." in word.partition("=")[0]]
    paths = [str(item).partition("=")[0] for item in scoped]
    for path in paths:
        if paths.count(path) > 1:
            raise QuantctlError(f"{quoted(text)} is not a format spec: {path} is given twice", f"one {path}=... only")
    return [word for word in words if "." not in word.partition("=")[0]], scoped


class _Setting(NamedTuple):
    value: str
    depth: int
    item: Item | None


def _strongest(text: str, slot: Slot, settings: Sequence[_Setting]) -> _Setting:
    """The narrowest one. Raises QuantctlError where two of the same width say different things."""
    best = max(setting.depth for setting in settings)
    found = [setting for setting in settings if setting.depth == best]
    if len({setting.value for setting in found}) > 1:
        both = " and ".join(str(setting.item) for setting in found)
        key = "format" if "bwd" in {s.item.key for s in found if s.item} else found[0].item.key if found[0].item else ""
        raise QuantctlError(
            f"{quoted(text)} contradicts itself: {both} are both said of {slot[0]}'s {slot[1]}",
            f"say which one holds there: {slot[0]}.{slot[1]}.{key}=...",
        )
    return found[0]


_BY_BWD: dict[str, Callable[[str, bool], tuple[str, str]]] = {
    "quantized": lambda format_, is_gradient: (format_, ORIGINAL),
    "dequantized": lambda format_, is_gradient: (NONE, ORIGINAL if is_gradient else FORWARD),
    "high_precision": lambda format_, is_gradient: (NONE, ORIGINAL),
}
"""What `bwd` writes for an operand of a gradient product: its format and its source."""


class _Reader:
    """Fills the six slots of one spec."""

    def __init__(self, text: str, base: FormatSpec, items: Sequence[Item], site: str) -> None:
        self.text, self.base, self.items, self.site = text, base, items, site
        self.taken: set[Item] = set()
        self.specs: dict[FormatSpec, FormatSpec] = {}
        """Equal ones are one object: whoever keeps something by a spec finds it without a comparison."""

    def operand(self, slot: Slot) -> Operand:
        items = [item for item in self.items if item.covers(slot)]
        formats, sources = [_Setting(self.base.format, 0, None)], [_Setting(ORIGINAL, 0, None)]
        if slot[0] != "fprop" and not self.base.is_none:
            for bwd in (_Setting(self.base.bwd or "", 0, None), *self._settings("bwd", items)):
                format_, source = _BY_BWD[bwd.value](self.base.format, slot[1] == GRADIENT)
                if bwd.item is None:
                    formats, sources = [], []
                formats.append(bwd._replace(value=format_))
                sources.append(bwd._replace(value=source))
                self.taken.update(filter(None, [bwd.item]))
        chosen = _strongest(self.text, slot, formats + self._settings("format", items))
        self.taken.update(item for item in items if item.key == "format")
        spec = FormatSpec(chosen.value)
        if chosen.value != NONE:
            spec = FormatSpec(chosen.value, **self._options(slot, items, chosen))
            fitting(self.text, spec, f", {slot[0]}'s {slot[1]}")
        spec = self.specs.setdefault(spec, spec)
        if slot[0] == "fprop" or slot[1] == GRADIENT:
            return Operand(spec)
        own = self._settings("source", items)
        self.taken.update(item for item in items if item.key == "source")
        # a format of a narrower scope begins anew, also with where its operand comes from
        said = [source for source in sources if source.depth >= chosen.depth]
        return Operand(spec, _strongest(self.text, slot, [*said, *own] or [_Setting(ORIGINAL, 0, None)]).value)

    def _settings(self, key: str, items: Sequence[Item]) -> list[_Setting]:
        return [_Setting(item.value, item.depth, item) for item in items if item.key == key]

    def _options(self, slot: Slot, items: Sequence[Item], chosen: _Setting) -> dict[str, str]:
        """What is said of the format from where it is chosen inwards; else its defaults."""
        is_base = chosen.value == self.base.format and (chosen.item is None or chosen.item.key == "bwd")
        options = self.base.options() if is_base else defaults_of(chosen.value, self.site)
        del options["bwd"]
        for key, default in options.items():
            said = [one for one in self._settings(key, items) if is_base or one.depth >= chosen.depth]
            for one in said:
                assert one.item is not None
                if one.value not in FORMATS[chosen.value][key]:
                    allowed = [f"{key}={value}" for value in FORMATS[chosen.value][key]]
                    raise refuse(self.text, f"{one.item} for {slot[0]}'s {slot[1]}, a {chosen.value}", "", allowed)
                self.taken.add(one.item)
            options[key] = _strongest(self.text, slot, [_Setting(default, 0, None), *said]).value
        return options

    def products(self) -> ProductSpecs:
        found = [self.operand(slot) for slot in slots(self.site)]
        for item in self.items:
            if item not in self.taken:
                raise self._without_effect(item)
        first, second = (not one.spec.is_none for one in found[:2])
        for index, quantized in ((3, second), (5, first)):
            if not quantized:  # what the forward computed with is the original
                found[index] = Operand(found[index].spec)
        self._check_transforms(found)
        return ProductSpecs(self.site, (found[0], found[1]), (found[2], found[3]), (found[4], found[5]))

    def _check_transforms(self, found: Sequence[Operand]) -> None:
        """Raises QuantctlError for a Hadamard transform that its product would not undo."""
        named = list(zip(slots(self.site), found, strict=True))
        for ((product, name), one), ((_, other_name), other) in zip(named[::2], named[1::2], strict=True):
            if one.spec.transform != other.spec.transform:
                said = [
                    f"{own}, {spec.format}, has hadamard={spec.transform[0]},signs={spec.transform[1]}"
                    for own, spec in ((name, one.spec), (other_name, other.spec))
                ]
                raise QuantctlError(
                    f"{quoted(self.text)}: {product} would transform its operands differently: {' and '.join(said)}",
                    f"say it of both, each in a format: {product}.hadamard=...,{product}.signs=...",
                )
        for index, forward in ((3, found[1]), (5, found[0])):
            if found[index].source == FORWARD and forward.spec.transform[0] != NONE:
                (product, name), _ = named[index]
                raise QuantctlError(
                    f"{quoted(self.text)}: the values of fprop's {name}, which {product} begins with, are those of its "
                    "Hadamard transform",
                    f"leave fprop without one, or let {product} begin with the original: {product}.bwd=quantized",
                )

    def _without_effect(self, item: Item) -> QuantctlError:
        if item.key == "bwd":
            return QuantctlError(f"{quoted(self.text)}: {item} says nothing of {self.base.format}", "give it a format")
        scope = ".".join(filter(None, (item.product, item.operand)))
        return QuantctlError(
            f"{quoted(self.text)}: {item} says nothing: nothing of {scope} has a format with {item.key} at {self.site}",
            f"give it one ({scope}.format=...), by bwd=quantized where that is meant, or leave {item} out",
        )


@lru_cache(maxsize=256)
def products(text: str, site: str = "linear") -> ProductSpecs:
    """The numerics of the three products of `site` by a spec without rules.

    Raises QuantctlError that names the wrong part: an unknown format, option, value or scope, a contradiction, or an
    option that no operand takes.
    """
    check(text, site)
    name, words = split(text)
    plain, items = split_items(text, words, site)
    return _Reader(text, spec_of(text, name, plain, site), items, site).products()
