"""The resolved table: module x product x operand of a model, equal rows folded, to read and as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from quantctl.spec.conditions import Module
from quantctl.spec.formats import split, text_of
from quantctl.spec.names import fold, ranges
from quantctl.spec.operands import FORWARD, GRADIENT, OPERANDS, PRODUCTS, Operand, Slot, products, slots
from quantctl.spec.outline import Outline
from quantctl.spec.resolution import Resolved, Schedule

WIDTH = 80
_SITE = 9
"""Columns of a site's name, in front of its rows."""


def _groups(found: Resolved, modules: Sequence[Module]) -> dict[Schedule, list[Module]]:
    """A site's modules by what they do, in the order of the model."""
    groups: dict[Schedule, list[Module]] = {}
    for module in modules:
        groups.setdefault(found.schedules[module.name], []).append(module)
    return groups


def document(found: Mapping[str, Resolved], outline: Outline, steps: int | None) -> dict[str, Any]:
    """The table as JSON: quantctl.spec.names.unfold makes single names of `modules` again."""
    return {
        "layers": outline.layers,
        "steps": steps,
        "sites": {
            site: [
                {
                    "modules": fold(module.name for module in modules),
                    "schedule": str(schedule),
                    "training": _spans(schedule.training, site),
                    "evaluation": _spans(schedule.evaluation, site),
                }
                for schedule, modules in _groups(one, outline.modules[site]).items()
            ]
            for site, one in found.items()
        },
    }


def _spans(said: Sequence[tuple[int, str]], site: str) -> list[dict[str, Any]]:
    return [{"from": begin, "spec": spec, "products": _products(spec, site)} for begin, spec in said]


def _products(spec: str, site: str) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {product: {} for product in PRODUCTS}
    for (product, operand), one in products(spec, site).items():
        found[product][operand] = {"format": text_of(one.spec, site), "source": one.source}
    return found


def lines(found: Mapping[str, Resolved], outline: Outline) -> list[str]:
    """The table to read: a row for all modules of a site that do the same; as wide as WIDTH where names allow it."""
    text = []
    for site, one in found.items():
        modules = outline.modules[site]
        rows = [
            row
            for schedule, group in _groups(one, modules).items()
            for row in _rows(schedule, site, places(group, modules))
        ]
        text += [f"{'' if index else site:<{_SITE}}{row}" for index, row in enumerate(rows)]
    return text


def _rows(schedule: Schedule, site: str, where: list[str]) -> list[str]:
    spans = list(_phases(schedule))
    if not any(_is_scoped(spec) for _, spec in spans):
        return _wrapped(where, f": {schedule}")
    cells = [(when if len(spans) > 1 else "", *cell) for when, spec in spans for cell in _operands(spec, site)]
    widths = [max(len(cell[place]) for cell in cells) for place in (0, 1)]
    widths = [width + 2 if width else 0 for width in widths]
    rows = [
        f"    {'' if index and when == cells[index - 1][0] else when:<{widths[0]}}{operands:<{widths[1]}}{text}"
        for index, (when, operands, text) in enumerate(cells)
    ]
    return [*_wrapped(where, ":"), *rows]


def _wrapped(where: list[str], end: str) -> list[str]:
    """On one line if it fits, else a line or more for each place."""
    line = "; ".join(where) + end
    lines = [line] if len(line) <= WIDTH - _SITE else [*where[:-1], where[-1] + end]
    wrap = textwrap.TextWrapper(WIDTH - _SITE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [row for line in lines for row in wrap.wrap(line)]


def _phases(schedule: Schedule) -> Iterator[tuple[str, str]]:
    """When, and the spec that holds then."""
    kinds = [("", schedule.training)]
    if schedule.evaluation != schedule.training:
        kinds.append(("evaluation", schedule.evaluation))
    for kind, said in kinds:
        ends = [begin - 1 for begin, _ in said[1:]]
        for (begin, spec), end in zip(said, [*ends, None], strict=True):
            steps = f"from {begin}" if end is None else f"steps {begin}-{end}"
            yield f"{kind} {steps}".strip() if len(said) > 1 else kind or "training", spec


def _operands(spec: str, site: str) -> list[tuple[str, str]]:
    """Scopes of the grammar's, and what holds for the operands in them."""
    if not _is_scoped(spec):
        return [("all", spec)]
    groups: dict[str, list[Slot]] = {}
    for slot, operand in products(spec, site).items():
        groups.setdefault(_text(operand, site), []).append(slot)
    return [(_scopes(frozenset(group), site), text) for text, group in groups.items()]


def _is_scoped(spec: str) -> bool:
    return any("." in word.partition("=")[0] for word in split(spec)[1])


def _text(operand: Operand, site: str) -> str:
    text = text_of(operand.spec, site)
    if operand.source != FORWARD:
        return text
    return "as in fprop" if operand.spec.is_none else f"{text} of what fprop had"


@lru_cache(maxsize=256)
def _scopes(wanted: frozenset[Slot], site: str) -> str:
    """The fewest scopes that are these operands, those before that say none twice."""
    known: dict[str, frozenset[Slot]] = {
        "all": frozenset(slots(site)),
        **{product: frozenset(slot for slot in slots(site) if slot[0] == product) for product in PRODUCTS},
        **{
            operand: frozenset(slot for slot in slots(site) if slot[1] == operand)
            for operand in (*OPERANDS[site], GRADIENT)
        },
        **{".".join(slot): frozenset([slot]) for slot in slots(site)},
    }
    inside = [name for name, scope in known.items() if scope <= wanted]
    covers = (names for number in range(1, len(inside) + 1) for names in combinations(inside, number))
    found: list[tuple[str, ...]] = [
        names for names in covers if frozenset[Slot]().union(*(known[name] for name in names)) == wanted
    ]
    fewest = min(found, key=lambda names: (len(names), sum(len(known[name]) for name in names)))
    return ", ".join(fewest)


# ---- where modules stand ----

_DEPTH = re.compile(r"mtp\.layers\.(\d+)\.")
_HEADS = ("layers", "mtp", "")


def _place(module: Module) -> tuple[str, int]:
    """Which numbering the module is in, and its number there: layers from 1, depths of prediction from 0."""
    if module.layer is not None:
        return "layers", module.layer
    depth = _DEPTH.match(module.name)
    return ("", 0) if depth is None else ("mtp", int(depth[1]))


def places(group: Collection[Module], modules: Sequence[Module]) -> list[str]:
    """`group`, of all the modules of a site, in words: layers as Megatron counts them, names as rules give them."""
    if len(group) == len(modules):
        return [f"all {len(modules)} modules" if len(modules) > 1 else modules[0].name]
    wanted = {module.name for module in group}
    found: list[str] = []
    for head in _HEADS:
        there: dict[int, set[str]] = {}
        mine: dict[int, set[str]] = {}
        for module in modules:
            kind, number = _place(module)
            if kind == head:
                there.setdefault(number, set()).add(module.within)
                if module.name in wanted:
                    mine.setdefault(number, set()).add(module.within)
        found += _of_head(head, mine, there)
    return found


def _of_head(head: str, mine: Mapping[int, set[str]], there: Mapping[int, set[str]]) -> Iterator[str]:
    def label(numbers: Collection[int]) -> str:
        return head if head != "layers" and len(numbers) == len(there) else f"{head} {ranges(numbers)}"

    whole = {number for number, names in mine.items() if names == there[number]}
    if whole and head:
        yield label(whole)
    by_name: dict[str, set[int]] = {}
    for number in mine.keys() - (whole if head else set()):
        for name in mine[number]:
            by_name.setdefault(name, set()).add(number)
    by_numbers: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(by_name):
        by_numbers.setdefault(tuple(sorted(by_name[name])), []).append(name)
    for numbers, names in sorted(by_numbers.items()):
        known = set[str]().union(*(there[number] for number in numbers))
        yield f"{label(numbers)} {', '.join(_shortened(names, known))}".strip()


def _shortened(names: Collection[str], there: Collection[str]) -> list[str]:
    """Names of all those there, with a `*` for what is meant of every kind."""
    folded = fold(there)
    known = {_starred(name) for name in folded}
    return _below("", {_starred(name) if name in folded else name for name in fold(names)}, known)


def _starred(name: str) -> str:
    return ".".join("*" if part[:1].isdecimal() else part for part in name.split("."))


def _below(prefix: str, wanted: Collection[str], known: Collection[str]) -> list[str]:
    inside = {name for name in wanted if name.startswith(prefix)}
    if prefix and len(inside) > 1 and inside == {name for name in known if name.startswith(prefix)}:
        return [f"{prefix}*"]
    found = sorted(name for name in inside if "." not in name[len(prefix) :])
    for part in sorted({name[len(prefix) :].partition(".")[0] for name in inside if "." in name[len(prefix) :]}):
        found += _below(f"{prefix}{part}.", inside, known)
    return found
