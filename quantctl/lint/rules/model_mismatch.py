"""Flags that contradict the model in the name.

Severity: error

Why: another network is trained than the name says

Fix: correct the flag or the name; a reduced model carries smoke, tiny or proxy in its name

Releases: all

Evidence: script/models.py, from the published configurations
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules._models import model

_REDUCED = re.compile(r"smoke|tiny|mini|toy|debug|proxy|small|reduced|(?<![a-z])test", re.IGNORECASE)

# what a tokenizer, a sequence or a recipe decides, not the architecture
_FREE = ("--max-position-embeddings", "--vocab-size", "--make-vocab-size-divisible-by", "--init-method-std",
         "--moe-aux-loss-coeff", "--moe-layer-freq")  # fmt: skip

_SIZE = ("--num-layers",)


@dataclass(frozen=True)
class _Identity:
    """A model's flags: with a value, and without."""

    title: str
    values: dict[str, str]
    switches: frozenset[str]


def _identities(name: str) -> list[_Identity]:
    """The true model and the reduced one of the smoke runs."""
    from quantctl.script import flags
    from quantctl.script.models import MODELS

    model = MODELS[name]
    found = []
    for architecture in (model.full, model.smoke):
        lines = flags.architecture(architecture)
        values = {line[0]: line[1] for line in lines if len(line) == 2 and line[0] not in _FREE}
        found.append(_Identity(model.title, values, frozenset(line[0] for line in lines if len(line) == 1)))
    return found


def _same(one: str, two: str) -> bool:
    try:
        return float(one) == float(two)
    except ValueError:
        return one == two


def _contradictions(case: Case, identity: _Identity) -> list[tuple[str, str]]:
    """Flags that say something else than the model has, each with a sentence."""
    found = []
    for flag, wanted in identity.values.items():
        given = case.arguments.last(flag)
        value = given.values[0] if given is not None and given.values else None
        if value is not None and not is_unknown(value) and not _same(value, wanted):
            found.append((flag, f"{flag} {value}, and {identity.title} has {wanted}"))
    heads, hidden = case.size("--num-attention-heads"), case.size("--hidden-size")
    width = identity.values.get("--kv-channels")
    if width and heads and hidden and case.has("--kv-channels") is False and hidden // heads != int(width):
        found.append(
            ("--kv-channels", f"head width {hidden // heads} (hidden / heads), and {identity.title} has {width}")
        )
    for switch in ("--untie-embeddings-and-output-weights", "--group-query-attention", "--multi-latent-attention"):
        given_switch = case.has(switch)
        if given_switch is not None and given_switch != (switch in identity.switches):
            says = "is given" if given_switch else "is missing"
            found.append((switch, f"{switch} {says}, which is not {identity.title}"))
    return found


def check(case: Case) -> Iterator[Hit]:
    named = model(case)
    if named is None:
        return
    found = min((_contradictions(case, identity) for identity in _identities(named[0])), key=len)
    for flag, message in found:
        proxy = flag in _SIZE or _REDUCED.search(named[1]) is not None
        yield Hit(message, (flag,), Severity.WARNING if proxy else None)
