"""A trainer's arguments as its parser would take them: option -> values, by the option table of a release.

Nothing is refused here. What a parser would refuse is kept, and the rules say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantctl.lint.megatron_flags import Option
from quantctl.lint.world import MANY, UNKNOWN, known

_OPTION = re.compile(r"-{1,2}[A-Za-z][\w.-]*")


@dataclass(frozen=True)
class Given:
    """An option as it stands on the command line."""

    name: str
    values: tuple[str, ...]
    option: Option | None
    """None: the parser does not know it."""
    extra: tuple[str, ...] = ()
    """Words behind it that it does not take: the parser would refuse them."""
    complete: bool = True
    """Whether it has as many values as it needs."""


@dataclass
class Arguments:
    """All of them, in order."""

    given: list[Given] = field(default_factory=list)
    same: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Options of one meaning, by the attribute that they set."""
    open: bool = False
    """Some cannot be known (`"$@"`): an option that is absent here may be there all the same."""

    def last(self, name: str) -> Given | None:
        """The one that counts: a later option wins."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Given]:
        return {
            name: one
            for one in self.given
            for name in (one.name, *(self.same.get(_meaning(one.option), ()) if one.option is not None else ()))
        }


def _meaning(option: Option) -> str:
    """Equal for options that set the same attribute to the same kind of value: `--x` and `--no-x` do not."""
    return f"{option.attribute} {option.default}" if option.is_switch else option.attribute


def _is_option(word: str) -> bool:
    return _OPTION.fullmatch(word.partition("=")[0]) is not None


def parse(words: Sequence[str], table: Mapping[str, Option]) -> Arguments:
    """Read words as argparse does without abbreviations: `--name value ...` and `--name=value`."""
    same: dict[str, list[str]] = {}
    for option in table.values():
        same.setdefault(_meaning(option), []).append(option.name)
    found = Arguments(same=same)
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not _is_option(word):
            # known stray words are said with the option before them; unknown ones may be anything
            found.open = found.open or not known(word)
            continue
        name, equals, value = word.partition("=")
        start = index
        while index < len(words) and not _is_option(words[index]):
            index += 1
        behind = tuple(words[start:index])
        one = _given(name, table.get(name), ((value,) if equals else ()), behind)
        found.open = found.open or any(MANY in word for word in one.extra)
        found.given.append(one)
    return found


def _given(name: str, option: Option | None, own: tuple[str, ...], behind: tuple[str, ...]) -> Given:
    if option is None:
        return Given(name, own + behind, None)
    if own:
        return Given(name, own, option, behind, option.nargs != 0)
    wanted = option.nargs
    if wanted in ("*", "+"):
        return Given(name, behind, option, (), wanted == "*" or bool(behind))
    count = 1 if wanted == "?" else int(wanted)
    values = behind[:count]
    complete = wanted == "?" or len(values) == count or any(MANY in value for value in values)
    # a value that nobody knows may be several words, so what follows it may still be its own
    loose = any(MANY in value for value in values)
    return Given(name, values, option, (MANY,) if loose and behind[count:] else behind[count:], complete)


def is_unknown(text: str) -> bool:
    return UNKNOWN in text or MANY in text
