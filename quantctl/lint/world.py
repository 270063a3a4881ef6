"""What is known at one point of one way through a script: variables, shell options, commands so far.

Text that cannot be known without running the script is a character that no script holds: UNKNOWN stands for any text in
a word, MANY for any number of words. So `--save=$DIR/ckpt` keeps its flag, and nothing is ever guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

UNKNOWN = "\ufdd0"
MANY = "\ufdd1"


def known(text: str) -> bool:
    """Whether all of the text is known."""
    return UNKNOWN not in text and MANY not in text


@dataclass(frozen=True)
class Invocation:
    """A command as the script would start it."""

    argv: tuple[str, ...]
    line: int
    """Where it begins in the script, from 1."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    """What the script exports and what stands in front of the command."""
    masked: str | None = None
    """Why its failure does not reach the script's exit status, as far as its own place in the script decides that."""
    group: int = 0
    """The pipeline that it is part of; 0 for a command of its own."""
    stops: bool = True
    """Whether its failure ends the script (`set -e` and no `||`), or the script becomes it (`exec`)."""


@dataclass
class World:
    """One way through a script, as launched without arguments and with nothing in the environment."""

    scalars: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, tuple[str, ...]] = field(default_factory=dict)
    soft: dict[str, frozenset[str] | None] = field(default_factory=dict)
    """Variables whose value is a default that the caller can change, with what they can still be (None: anything)."""
    never: dict[str, frozenset[str]] = field(default_factory=dict)
    """What a variable that nobody knows cannot be on this way."""
    exported: frozenset[str] = frozenset()
    positional: tuple[str, ...] | None = None
    """A function's arguments; None: the script's own, which nobody knows."""
    options: frozenset[str] = frozenset()
    """Of errexit and pipefail those that are on."""
    assumed: tuple[str, ...] = ()
    """Where this way leaves the defaults, for people: `TRAINING_CONFIG=smoke`."""
    branches: tuple[str, ...] = ()
    """What this way takes for true without knowing it."""
    invocations: tuple[Invocation, ...] = ()
    ended: str = ""
    """`exit` or `return`: no later command runs."""

    def copy(self) -> World:
        return replace(
            self, scalars=dict(self.scalars), arrays=dict(self.arrays), soft=dict(self.soft), never=dict(self.never)
        )

    def assign(self, name: str, value: str, soft: bool = False) -> None:
        self.arrays.pop(name, None)
        self.scalars[name] = value
        self.soft.pop(name, None)
        self.never.pop(name, None)
        if soft and known(value):
            self.soft[name] = None

    def assign_array(self, name: str, words: tuple[str, ...]) -> None:
        self.scalars.pop(name, None)
        self.soft.pop(name, None)
        self.arrays[name] = words

    def forget(self, name: str) -> None:
        """The variable has a value that nobody knows."""
        if name in self.arrays:
            self.arrays[name] = (MANY,)
        else:
            self.assign(name, UNKNOWN)

    def environment(self) -> dict[str, str]:
        return {name: self.scalars.get(name, UNKNOWN) for name in self.exported}

    def state(self) -> tuple[object, ...]:
        """Equal for ways that cannot differ from here on."""
        return (
            tuple(sorted(self.scalars.items())),
            tuple(sorted(self.arrays.items())),
            tuple(sorted((name, tuple(sorted(values or ()))) for name, values in self.soft.items())),
            tuple(sorted((name, tuple(sorted(values))) for name, values in self.never.items())),
            self.exported,
            self.positional,
            self.options,
            self.invocations,
            self.ended,
        )


def merged(worlds: list[World], most: int) -> list[World]:
    """One of those that cannot differ any more, nearest to the defaults first, at most `most`."""
    worlds = sorted(worlds, key=lambda world: (len(world.assumed), len(world.branches)))
    kept: dict[tuple[object, ...], World] = {}
    for world in worlds:
        kept.setdefault(world.state(), world)
    return list(kept.values())[:most]
