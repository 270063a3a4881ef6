"""What is known at one point of one way through a script: variables, shell options, commands so far.

Text that cannot be known without running the script is a character that no script holds: UNKNOWN stands for any text in
a word, MANY for any number of words. So `--save=$DIR/ckpt` keeps its flag, and nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

UNKNOWN = "\ufdd0"
MANY = "\ufdd1"


LONGEST = 2**16
"""Characters of a value."""
_MOST_WORDS = 10_000
_LONGEST_LIST = 2**20
"""Words of a list, and characters of all of them."""
_MOST_WORK = 3_000_000
"""About a microsecond each."""


@dataclass
class Work:
    """What a script may still make its reader do: shared by all ways through it.

    What goes beyond is unknown from there on, and `cut` says so: a script is never judged by half in silence.
    """

    left: int = _MOST_WORK
    cut: dict[str, None] = field(default_factory=dict)
    """Sentences, in the order in which they became true."""
    unread: dict[str, None] = field(default_factory=dict)
    """What was found and is not read, in sentences: a training may be in it."""
    seen: set[int] = field(default_factory=set)
    """Lines of the script with commands that some way comes to."""
    torn: set[int] = field(default_factory=set)
    """Lines that hold, or have another shell read, text that the grammar cannot read."""
    capture: Callable[[str, World], str] | None = None
    """What a command substitution's text prints in a world."""

    def spend(self, amount: int) -> bool:
        """Whether there was that much left."""
        self.left -= amount
        if self.left >= 0:
            return True
        self.note("it does more than is followed: loops, functions or values that grow without end")
        return False

    def note(self, sentence: str) -> None:
        self.cut[sentence] = None

    def text(self, text: str) -> str:
        """A value of a length that is followed, else UNKNOWN."""
        if len(text) <= LONGEST:
            return text
        self.note(f"a value has more than {LONGEST:,} characters")
        return UNKNOWN

    def words(self, words: Sequence[str]) -> tuple[str, ...]:
        """A list of a size that is followed, else MANY."""
        if len(words) <= _MOST_WORDS and sum(map(len, words)) <= _LONGEST_LIST:
            return tuple(words)
        self.note(f"a list has more than {_MOST_WORDS:,} words or {_LONGEST_LIST:,} characters")
        return (MANY,)


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
    gone: frozenset[str] = frozenset()
    """Variables that the script unset, and a function's own ones without a value: no caller sets them."""
    functions: dict[str, Node] = field(default_factory=dict)
    """Name -> body."""
    saved: dict[str, World] | None = None
    """In a function: its own variables, each with a world that knows what the name meant outside."""
    exported: frozenset[str] = frozenset()
    positional: tuple[str, ...] | None = None
    """The arguments of a function, or of `set --`; None: the script's own, which nobody knows."""
    options: frozenset[str] = frozenset()
    """Of errexit, pipefail and nounset those that are on."""
    assumed: tuple[str, ...] = ()
    """Where this way leaves the defaults, for people: `TRAINING_CONFIG=smoke`."""
    branches: tuple[str, ...] = ()
    """What this way takes for true without knowing it."""
    invocations: tuple[Invocation, ...] = ()
    ended: str = ""
    """`exit`, `return`, `break` or `continue`: no later command runs, up to where that is caught."""
    status: bool | None = True
    """Whether the last command succeeded."""
    output: str | None = None
    """What was printed so far inside a command substitution; None outside of one."""
    input: str | None = None
    """What the stage before it in a pipeline printed; None if that is no text of the script's."""
    work: Work = field(default_factory=Work, compare=False)

    def copy(self) -> World:
        return replace(
            self,
            scalars=dict(self.scalars),
            arrays=dict(self.arrays),
            soft=dict(self.soft),
            never=dict(self.never),
            functions=dict(self.functions),
            saved=None if self.saved is None else dict(self.saved),
        )

    def leave_shell(self, outer: World) -> None:
        """Forget what a subshell changed: variables, functions, options and arguments are the outer shell's again."""
        inner = outer.copy()
        self.scalars, self.arrays, self.soft, self.never = inner.scalars, inner.arrays, inner.soft, inner.never
        self.functions, self.saved, self.exported, self.gone = inner.functions, inner.saved, inner.exported, inner.gone
        self.positional, self.options, self.ended = inner.positional, inner.options, inner.ended

    def assign(self, name: str, value: str, soft: bool = False) -> None:
        items = self.arrays.get(name)
        if items is not None:
            self.arrays[name] = self.work.words((value, *items[1:])) if MANY not in items[:1] else (MANY,)
            return
        self.scalars[name] = self.work.text(value)
        self.gone -= {name}
        self.soft.pop(name, None)
        self.never.pop(name, None)
        if soft and known(value):
            self.soft[name] = None

    def assign_array(self, name: str, words: tuple[str, ...]) -> None:
        self.scalars.pop(name, None)
        self.soft.pop(name, None)
        self.gone -= {name}
        self.arrays[name] = self.work.words(words)

    def drop_value(self, name: str) -> None:
        for part in (self.scalars, self.arrays, self.soft, self.never):
            part.pop(name, None)

    def drop(self, name: str) -> None:
        """The variable is no more."""
        self.drop_value(name)
        self.exported -= {name}
        self.gone |= {name}

    def give(self, name: str, other: World) -> None:
        """The variable is again what it is in another world."""
        self.drop(name)
        self.gone = self.gone - {name} | (other.gone & {name})
        if name in other.arrays:
            self.arrays[name] = other.arrays[name]
        if name in other.scalars:
            self.scalars[name] = other.scalars[name]
        if name in other.soft:
            self.soft[name] = other.soft[name]
        self.exported |= other.exported & {name}

    def forget(self, name: str) -> None:
        """The variable has a value that nobody knows."""
        if name in self.arrays:
            self.arrays[name] = (MANY,)
        else:
            self.assign(name, UNKNOWN)

    def prints(self, text: str) -> None:
        if self.output is not None:
            self.output = self.work.text(self.output + text)

    def environment(self) -> dict[str, str]:
        if not self.work.spend(len(self.exported)):
            return {}
        return {name: self.scalars.get(name, UNKNOWN) for name in self.exported}
