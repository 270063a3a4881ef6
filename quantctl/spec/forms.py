"""The one form of a spec with scopes, and a spec with options laid over it.

>>> canonical_spec("mxfp8:wgrad.format=none,dgrad.format=none")
'mxfp8:bwd=high_precision'
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from quantctl.errors import QuantctlError
from quantctl.spec.formats import FORMATS, NONE, FormatSpec, spec_of, split, text_of, written
from quantctl.spec.operands import GRADIENT, KEYS, ORIGINAL, PRODUCTS, Item, ProductSpecs, products, split_items


def order(item: Item) -> tuple[int, int, int, int]:
    operands = (None, "input", "query", "probabilities", "weight", "key", "value", GRADIENT)
    return (item.depth, (None, *PRODUCTS).index(item.product), operands.index(item.operand), KEYS.index(item.key))


def _uniform(specs: ProductSpecs) -> str | None:
    """The spec of one format that means the same, if there is one."""
    if specs.is_none and all(operand.source == ORIGINAL for _, operand in specs.items()):
        return NONE
    first = specs.fprop[0].spec
    for bwd in FORMATS[first.format]["bwd"] if not first.is_none else ():
        text = text_of(FormatSpec(first.format, **first.options(), bwd=bwd), specs.site)
        if _means(text, specs.site, specs):
            return text
    return None


@lru_cache(maxsize=256)
def canonical_spec(text: str, site: str = "linear") -> str:
    """The literal with the same meaning at `site` of which no option can be left out, in the order of the tables."""
    specs = products(text, site)
    if uniform := _uniform(specs):
        return uniform
    name, words = split(text)
    plain, items = split_items(text, words, site)
    base = spec_of(text, name, plain, site)
    head = {} if base.is_none else base.options()
    items = sorted(items, key=order)
    before = None
    while before != (before := (len(items), len(head))):  # what can be left out may let another be left out
        for item in reversed(items):
            fewer = [other for other in items if other != item]
            if _means(written(base.format, head, map(str, fewer)), site, specs):
                items = fewer
        for key in reversed(list(head)):
            fewer_options = {other: value for other, value in head.items() if other != key}
            if _means(written(base.format, fewer_options, map(str, items)), site, specs):
                head = fewer_options
    return written(base.format, head, map(str, items))


def _means(text: str, site: str, specs: ProductSpecs) -> bool:
    try:
        return products(text, site) == specs
    except QuantctlError:
        return False


def amended(text: str, amendment: Sequence[str], site: str) -> str:
    """`text` with options laid over it: each takes the place of what `text` says in its scope or a narrower one.

    A format, and what writes formats (bwd), begin anew: they take the place of all options there.
    """
    name, words = split(text)
    plain, items = split_items(text, words, site)
    new_plain, new_items = split_items(f"{name}:{','.join(amendment)}", amendment, site)
    keys = {word.partition("=")[0] for word in new_plain}
    plain = [word for word in plain if word.partition("=")[0] not in keys] + new_plain
    anew = PRODUCTS[1:] if "bwd" in keys else ()
    items = [item for item in items if item.key not in keys and item.product not in anew]
    for new in new_items:
        items = [item for item in items if not (item.within(new) and new.key in ("format", "bwd", item.key))]
    return name + (":" + ",".join([*plain, *map(str, (*items, *new_items))]) if plain or items or new_items else "")
