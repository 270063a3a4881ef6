"""Patterns of bash (`*`, `?`, `[...]`) and what `${NAME#...}`, `${NAME/...}` and `case` do with them.

Every match is a walk over sets of places in the pattern: no pattern takes more than text x pattern steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantctl.lint.world import Work

Item = str | frozenset[str] | tuple[bool, str]
ANY, STAR = (True, "?"), (True, "*")
_CLASSES = {
    "alpha": str.isalpha,
    "digit": str.isdigit,
    "alnum": str.isalnum,
    "upper": str.isupper,
    "lower": str.islower,
    "space": str.isspace,
    "punct": lambda sign: sign.isprintable() and not sign.isalnum() and sign != " ",
}
_ASCII = [chr(code) for code in range(1, 128)]


class NoPattern(Exception):
    """A pattern that is not understood, or costs too much."""


def compile_(pieces: Sequence[tuple[str, bool]]) -> list[Item]:
    """The items of a pattern from its text and whether each piece of it is quoted."""
    signs = [(sign, quoted) for text, quoted in pieces for sign in text]
    items: list[Item] = []
    at = 0
    while at < len(signs):
        sign, quoted = signs[at]
        at += 1
        if quoted:
            items.append(sign)
        elif sign in "@+!*?" and at < len(signs) and signs[at] == ("(", False):
            raise NoPattern  # extglob: only with shopt
        elif sign == "*":
            if not items or items[-1] != STAR:
                items.append(STAR)
        elif sign == "?":
            items.append(ANY)
        elif sign == "[":
            found = _bracket(signs, at)
            if found is None:
                items.append("[")
            else:
                at, members = found
                items.append(members)
        elif sign == "\\":
            if at < len(signs):
                items.append(signs[at][0])
                at += 1
        else:
            items.append(sign)
    return items


def _bracket(signs: list[tuple[str, bool]], at: int) -> tuple[int, frozenset[str]] | None:
    negated = at < len(signs) and signs[at] in (("!", False), ("^", False))
    at += negated
    members: set[str] = set()
    first = True
    while at < len(signs):
        sign, quoted = signs[at]
        if sign == "]" and not quoted and not first:
            found = frozenset(_ASCII) - members if negated else frozenset(members)
            return at + 1, found
        first = False
        if sign == "[" and not quoted and at + 1 < len(signs) and signs[at + 1][0] in ":.=":
            text = "".join(one for one, _ in signs[at : at + 12])
            name = text[2:].partition(":]")[0]
            if signs[at + 1][0] != ":" or name not in _CLASSES or not text[2:].startswith(name + ":]"):
                raise NoPattern
            members |= {one for one in _ASCII if _CLASSES[name](one)}
            at += len(name) + 4
            continue
        if at + 2 < len(signs) and signs[at + 1] == ("-", False) and signs[at + 2][0] != "]":
            low, high = sign, signs[at + 2][0]
            if not (low.isdigit() and high.isdigit()) and low.isalpha() != high.isalpha():
                raise NoPattern
            if low.isalpha() and low.islower() != high.islower():
                raise NoPattern  # the locale decides
            members |= {chr(code) for code in range(ord(low), ord(high) + 1)}
            at += 3
            continue
        members.add(sign)
        at += 1
    return None


def _closure(places: set[int], items: Sequence[Item]) -> set[int]:
    found = set(places)
    for start in places:
        place = start
        while place < len(items) and items[place] == STAR:
            place += 1
            found.add(place)
    return found


def ends(items: Sequence[Item], text: str, start: int, work: Work) -> list[int]:
    """Every place in `text` up to which the pattern matches from `start` on, ascending."""
    places, found = _closure({0}, items), []
    for at in range(start, len(text) + 1):
        if len(items) in places:
            found.append(at)
        if at == len(text) or not places:
            break
        if not work.spend(1 + len(places) // 2):
            raise NoPattern
        sign = text[at]
        after: set[int] = set()
        for place in places:
            if place == len(items):
                continue
            item = items[place]
            if item == STAR:
                after.add(place)
            elif item == ANY or _is(item, sign):
                after.add(place + 1)
        places = _closure(after, items)
    return found


def matches(items: Sequence[Item], text: str, work: Work) -> bool:
    """Whether the pattern matches all of the text: after a failure only the last `*` takes more."""
    place = at = 0
    star, resume = -1, 0
    while at < len(text):
        if not work.spend(1):
            raise NoPattern
        item = items[place] if place < len(items) else None
        if item == STAR:
            star, resume = place, at
            place += 1
        elif item is not None and (item == ANY or _is(item, text[at])):
            place, at = place + 1, at + 1
        elif star >= 0:
            resume += 1
            place, at = star + 1, resume
        else:
            return False
    return all(item == STAR for item in items[place:])


def _is(item: Item, sign: str) -> bool:
    return sign in item if isinstance(item, frozenset) else sign == item


def remove(operator: str, items: Sequence[Item], text: str, work: Work) -> str:
    """`#`, `##`, `%`, `%%`: the shortest or longest match at the front or the back is taken away."""
    if operator[0] == "#":
        found = ends(items, text, 0, work)
        return text if not found else text[found[-1] if operator == "##" else found[0] :]
    starts = [at for at in range(len(text) + 1) if (e := ends(items, text, at, work)) and e[-1] == len(text)]
    return text if not starts else text[: starts[0] if operator == "%%" else starts[-1]]


def replace(operator: str, items: Sequence[Item], text: str, by: str, work: Work) -> str:
    """`/`, `//`, `/#`, `/%`: the longest match (each, in front, at the back) gives way."""
    if operator == "/#":
        found = ends(items, text, 0, work)
        return by + text[found[-1] :] if found else text
    if operator == "/%":
        for at in range(len(text) + 1):
            if (found := ends(items, text, at, work)) and found[-1] == len(text):
                return text[:at] + by
        return text
    if not items:
        return text
    if not text:
        return by if matches(items, text, work) else text
    done: list[str] = []
    at = 0
    while at < len(text):
        found = ends(items, text, at, work)
        if found and found[-1] > at:
            done.append(by)
            at = found[-1]
            if operator == "/":
                break
        else:
            done.append(text[at])
            at += 1
    return "".join(done) + text[at:]


def change_case(operator: str, items: Sequence[Item], text: str, work: Work) -> str:
    """`^`, `^^`, `,`, `,,`: the first, or every, character that the pattern matches (none given: any)."""
    change = str.upper if operator[0] == "^" else str.lower

    def one(sign: str) -> str:
        return change(sign) if not items or matches(items, sign, work) else sign

    return "".join(map(one, text)) if len(operator) > 1 else one(text[:1]) + text[1:]
