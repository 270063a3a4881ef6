"""What a shell may complete a literal with."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.spec import FORMATS, NONE


def completions(text: str, role: str) -> Iterator[str]:
    """Whole texts that begin as `text` and may go on: names of formats, options, scopes, and conditions of rules."""
    front, semicolon, rule = text.rpartition(";")
    head, colon, value = rule.partition(":")
    if semicolon and not colon:
        yield from _conditions(f"{front};", head)
        return
    spec = value.lstrip() if semicolon else rule
    before = text[: len(text) - len(spec)]
    name, colon, rest = spec.partition(":")
    if not colon:
        yield from (before + word for word in (NONE, *FORMATS) if word.startswith(name))
        return
    said, comma, last = rest.rpartition(",")
    before += f"{name}:{said}{comma}"
    yield from (before + word for word in _options(name, last, role) if word.startswith(last))


def _conditions(before: str, head: str) -> Iterator[str]:
    from quantctl.spec.conditions import WORDS

    said, blank, last = head.rpartition(" ")
    before += f"{said}{blank or ' '}"
    yield from (before + word for word in ("layers", *WORDS, "from", "until", "evaluation") if word.startswith(last))


def _options(name: str, last: str, role: str) -> Iterator[str]:
    """Options of a format; and, once something stands there, scopes and what may stand behind one."""
    plain = FORMATS.get(name, {})
    scope, dot, _ = last.rpartition(".")
    if not dot:
        yield from (f"{key}={value}" for key, values in plain.items() for value in values)
    if not last:
        return
    from quantctl.spec.operands import GRADIENT, KEYS, OPERANDS, PRODUCTS, values_of

    operands = (*OPERANDS.get(role, ()), GRADIENT)
    if not dot:
        yield from (f"{part}." for part in (*PRODUCTS, *operands))
        return
    yield from (f"{scope}.{part}." for part in operands if scope in PRODUCTS)
    yield from (f"{scope}.{key}={value}" for key in KEYS for value in values_of(key))
