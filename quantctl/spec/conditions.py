"""Where and when a rule of a literal holds: `layers 1-2,-4..-1`, `*.linear_fc2`, `experts`, `from 80%`, `evaluation`.

Layers count from 1 as Megatron's do, from the end with a minus, or in shares: `layers 85%..` are those behind the first
85 per cent, rounded to whole layers, so that `..85%` and `85%..` part a model between them. Steps are a training's,
from 1: `from 1000` begins with that one, `until 1000` ends with it; `from 80%` and `until 80%` part it likewise. A name
is a glob for the end of a module's name within its layer, from a dot on: `linear_fc2` and `*.linear_fc2` are one. WORDS
are parts of the model in place of names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from quantctl.errors import QuantctlError, near, quoted, suggestion


class Module(NamedTuple):
    """A module that computes products, by its place in the model."""

    name: str
    """The whole one, such as decoder.layers.0.mlp.linear_fc2, layers counted over all pipeline stages."""
    layer: int | None
    """Megatron's number, from 1; None outside of the model's layers, in multi-token prediction as well."""

    @property
    def within(self) -> str:
        """The name within its layer: self_attention.linear_qkv."""
        return re.sub(r"^.*?\blayers\.\d+\.", "", self.name, count=1)

    @property
    def parts(self) -> list[str]:
        return self.name.split(".")


def _has(*parts: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{'|'.join(parts)})(?:\.|$)", re.ASCII)


_ANYWHERE = re.compile("")
WORDS: dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]] = {
    # word: what a module's name has, and what it has not
    "attention": (_has(r"\w*attention", r"\w*attn"), None),
    "mlp": (_has("mlp"), _has("experts", "shared_experts")),
    "experts": (_has("experts"), None),
    "shared_experts": (_has("shared_experts"), None),
    "mtp": (_has("mtp"), None),
}
"""Names for parts of a model. `mlp` are the dense ones; `experts` the routed ones."""

_BOUND = r"(?:-?[1-9]\d{0,5}|\d{1,3}(?:\.\d{1,4})?%)"
_RANGE = re.compile(
    rf"(?P<first>{_BOUND})?\.\.(?P<last>{_BOUND})?|(?P<low>[1-9]\d{{0,5}})-(?P<high>[1-9]\d{{0,5}})|(?P<one>{_BOUND})",
    re.ASCII,
)
_STEP = re.compile(r"[1-9]\d{0,11}|\d{1,3}(?:\.\d{1,4})?%", re.ASCII)
_NAME = re.compile(r"[\w.*?\[\]!-]+", re.ASCII)

_PARTS = 10_000
"""Of a per cent: shares have four digits behind the point."""


def _parts(share: str) -> int:
    whole, _, behind = share.rstrip("%").partition(".")
    return int(whole) * _PARTS + int(behind.ljust(4, "0"))


def boundary(share: str, whole: int) -> int:
    """How many of `whole` things the first `share` per cent are, rounded half up."""
    return (whole * _parts(share) + 50 * _PARTS) // (100 * _PARTS)


def _share(text: str) -> str:
    """A share in its one form: 50.0% is 50%. Raises QuantctlError beyond 100%."""
    whole, behind = divmod(_parts(text), _PARTS)
    if (whole, behind) > (100, 0):
        raise QuantctlError(f"{text} is more than all", "a share is at most 100%")
    return f"{whole}{f'.{behind:04}'.rstrip('0') if behind else ''}%"


class Range(NamedTuple):
    """Some of the layers: bounds as they are written, empty at an open end."""

    first: str
    last: str

    def numbers(self, layers: int) -> range:
        """Which of so many layers; what lies outside of the model is left out."""
        first = self._number(self.first, layers, 1) if self.first else 1
        last = self._number(self.last, layers, 0) if self.last else layers
        return range(max(first, 1), min(last, layers) + 1)

    def beyond(self, layers: int) -> bool:
        """Whether a bound is no layer of so many."""
        plain = [bound for bound in (self.first, self.last) if bound and not bound.endswith("%")]
        return any(not 1 <= self._number(bound, layers, 0) <= layers for bound in plain)

    @staticmethod
    def _number(bound: str, layers: int, behind: int) -> int:
        if bound.endswith("%"):
            return boundary(bound, layers) + behind
        return int(bound) if not bound.startswith("-") else layers + 1 + int(bound)

    def __str__(self) -> str:
        if self.first == self.last and not self.first.endswith("%"):
            return self.first
        both_plain = self.first.isdigit() and self.last.isdigit()
        return f"{self.first}{'-' if both_plain else '..'}{self.last}"


@dataclass(frozen=True)
class Layers:
    """`layers 1-2,-4..-1`."""

    ranges: tuple[Range, ...]

    def holds(self, module: Module, layers: int) -> bool:
        return module.layer is not None and any(module.layer in one.numbers(layers) for one in self.ranges)

    def __str__(self) -> str:
        return "layers " + ",".join(map(str, self.ranges))


@dataclass(frozen=True)
class Named:
    """A word of WORDS, or a glob."""

    pattern: str

    def holds(self, module: Module, layers: int) -> bool:
        if self.pattern in WORDS:
            has, has_not = WORDS[self.pattern]
            return bool(has.search(module.name)) and not (has_not and has_not.search(module.name))
        names = (module.within, module.name)
        return any(fnmatchcase(name, pattern) for name in names for pattern in (self.pattern, f"*.{self.pattern}"))

    def __str__(self) -> str:
        return self.pattern


@dataclass(frozen=True)
class Phase:
    """`from 1000`, `until 80%`, `evaluation`."""

    word: str
    bound: str = ""

    def steps(self, steps: int | None) -> range:
        """Which steps of a training of so many. Raises QuantctlError for a share of an unknown number of them."""
        end = 2**62
        if self.word == "evaluation":
            return range(1, end)
        if not self.bound.endswith("%"):
            bound = int(self.bound)
        elif steps is None:
            raise QuantctlError(
                f"`{self}` is a share of a training of unknown length", "name a step, or say --train-iters"
            )
        else:
            bound = boundary(self.bound, steps) + (self.word == "from")
        return range(bound, end) if self.word == "from" else range(1, bound + 1)

    def __str__(self) -> str:
        return f"{self.word} {self.bound}".strip()


Condition = Layers | Named | Phase


def _range(text: str, whole: str) -> Range:
    found = _RANGE.fullmatch(text)
    if not found or text == "..":
        raise QuantctlError(
            f"{quoted(whole)}: {quoted(text)} names no layers", "such as 1, 1-4, -2, -4..-1, 3.., 85%.., ..10%"
        )
    first, last = found["low"] or found["first"] or found["one"] or "", found["high"] or found["last"] or ""
    first, last = (_share(bound) if bound.endswith("%") else bound for bound in (first, last))
    if found["one"] and first.endswith("%"):
        raise QuantctlError(
            f"{quoted(whole)}: of which layers is {first}?", f"..{first} are the first, {first}.. the rest"
        )
    return _ordered(Range(first, first if found["one"] else last), whole)


def _ordered(found: Range, whole: str) -> Range:
    plain = found.first.isdigit() and found.last.isdigit()
    from_the_end = found.first.startswith("-") and found.last.startswith("-")
    if (plain or from_the_end) and int(found.first) > int(found.last):
        raise QuantctlError(f"{quoted(whole)}: {found} begins behind its end", f"{Range(found.last, found.first)}")
    return found


_EXAMPLES = {"layers": "layers 1-2,-4..-1", "from": "from 80%", "until": "until 1000"}
_LEADING = (*_EXAMPLES, *WORDS, "evaluation")


def _words(text: str) -> list[str]:
    """Blanks part; around a comma they do not."""
    return re.sub(r"\s*,\s*", ",", text.strip()).split()


def conditions_of(text: str) -> tuple[Condition, ...]:
    """All that has to hold for a rule: what stands in front of its colon. Raises QuantctlError that names the part."""
    text = text.strip()
    words = _words(text)
    found: list[Condition] = []
    while words:
        word = words.pop(0)
        if word == "evaluation":
            found.append(Phase(word))
        elif word in _EXAMPLES:
            if not words:
                raise QuantctlError(f"{quoted(text)}: nothing behind {word}", f"such as {_EXAMPLES[word]}")
            found.append(_bounded(word, words.pop(0), text))
        elif _NAME.fullmatch(word):
            found.append(Named(_shortest(word)))
        else:
            hint = suggestion(word, _LEADING, "or a glob: *.linear_fc2")
            raise QuantctlError(f"{quoted(text)}: {quoted(word)} is no condition", hint)
    if not found:
        raise QuantctlError("a rule without a condition in front of its colon", "such as `layers 1-2: none`")
    _refuse_two_names(found, text)
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (isinstance(one, Phase), isinstance(one, Named))))


def _shortest(glob: str) -> str:
    """A glob without `*.` in front, where it is not a word then."""
    while glob.startswith("*.") and glob[2:] not in (*_LEADING, ""):
        glob = glob[2:]
    return glob


def _refuse_two_names(found: Sequence[Condition], text: str) -> None:
    """Raises QuantctlError for plain names of which a module can have only one: `layer 3` is two of them."""
    names = [one.pattern for one in found if isinstance(one, Named) and not re.search(r"[*?[]", one.pattern)]
    plain = sorted(set(names) - {*WORDS}, key=len)
    if not all(f".{plain[-1]}".endswith(f".{name}") for name in plain):
        meant = [f"did you mean {word}? " for name in plain for word in near(name, _LEADING)]
        hint = f"{''.join(meant[:1])}a rule for each, with `;` between them"
        raise QuantctlError(f"{quoted(text)}: no module is called {' and '.join(plain)}", hint)


def _bounded(word: str, bound: str, text: str) -> Condition:
    if word == "layers":
        return Layers(tuple(dict.fromkeys(_range(part, text) for part in bound.split(","))))
    if not _STEP.fullmatch(bound):
        raise QuantctlError(f"{quoted(text)}: {word} {bound[:60]} is no step", f"such as {_EXAMPLES[word]}")
    return Phase(word, _share(bound) if bound.endswith("%") else bound)
