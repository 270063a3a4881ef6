"""What the shell's own commands do to a world; every other command is one that the script starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known
from quantctl.outside.records import BadRecord, open_regular


class Reader(Protocol):
    """Who reads the script, as far as its commands want something read."""

    path: Path | None

    def nested(self, text: str, world: World, depth: int) -> list[World]:
        """The worlds after another text."""


_SHELLS = ("bash", "sh", "zsh", "dash")
# what these say before anything long has run makes no difference between two ways through a script
_SILENT = ("echo", "printf", "true", ":", "shift", "set", "command", "[", "test")
_A_FEW = 6
_LETTERS = {"e": "errexit"}
_LARGEST_SOURCED = 1_000_000


def run(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    """The worlds after a command."""
    name = invocation.argv[0]
    if name not in _SILENT or any(len(one.argv) > _A_FEW for one in world.invocations):
        world.work.spend(len(world.invocations) // 16)
        world.invocations += (invocation,)
    if name in _BUILTINS:
        return _BUILTINS[name](reader, invocation, world, depth)
    place = _inner(invocation.argv)
    if place is not None:
        front, text = invocation.argv[: place[0]], invocation.argv[place[1]]
        if known(text.replace(UNKNOWN, "")):
            return _inner_shell(reader, front, text, invocation, world, depth)
    return [world]


def _inner(argv: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the shell of `bash -c TEXT` and its text stand, whatever is in front: srun, docker, env."""
    for index, word in enumerate(argv[:-2]):
        if word.rpartition("/")[2] in _SHELLS:
            for position, option in enumerate(argv[index + 1 : -1], index + 1):
                if not option.startswith("-"):
                    break
                if not option.startswith("--") and "c" in option:
                    return index, position + 1
            return None
    return None


def _inner_shell(
    reader: Reader, front: tuple[str, ...], text: str, outer: Invocation, world: World, depth: int
) -> list[World]:
    """Commands of an inner shell count as the script's, at the outer one's place and behind what stands before it."""
    before = len(world.invocations)
    inner = world.copy()
    inner.options = frozenset()
    after = reader.nested(text, inner, depth)
    for each in after:
        found = tuple(
            replace(outer, argv=(*front, *one.argv), environment=outer.environment | one.environment)
            for one in each.invocations[before:]
        )
        each.invocations = each.invocations[:before] + found
        each.ended, each.options = world.ended, world.options
        each.scalars, each.arrays, each.soft = dict(world.scalars), dict(world.arrays), dict(world.soft)
    return after


def _set(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    arguments = invocation.argv[1:]
    for index, word in enumerate(arguments):
        if word == "--" or not word.startswith(("-", "+")):
            break
        names = {_LETTERS[letter] for letter in word[1:] if letter in _LETTERS}
        if "o" in word[1:] and index + 1 < len(arguments):
            names |= {arguments[index + 1]} & {"errexit", "pipefail"}
        world.options = world.options | names if word.startswith("-") else world.options - names
        if "o" in word[1:] and index + 2 < len(arguments):
            rest = replace(invocation, argv=("set", *arguments[index + 2 :]))
            return _set(reader, rest, world, depth)
    return [world]


def _exit(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    world.ended = invocation.argv[0]
    return [world]


def _exec(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    """The script becomes the command; a bare `exec > log` only redirects."""
    if len(invocation.argv) > 1:
        replaced = replace(invocation, argv=invocation.argv[1:], stops=True)
        world.invocations = (*world.invocations[:-1], replaced)
        world.ended = "exit"
    return [world]


def _eval(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    text = world.work.text(" ".join(world.work.words(invocation.argv[1:])))
    before = len(world.invocations)
    after = reader.nested(text.replace(MANY, UNKNOWN), world, depth)
    for each in after:
        found = (
            replace(one, line=invocation.line, masked=invocation.masked, stops=invocation.stops)
            for one in each.invocations[before:]
        )
        each.invocations = (*each.invocations[:before], *found)
    return after


def _source(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    if len(invocation.argv) < 2 or not known(invocation.argv[1]) or reader.path is None:
        return [world]
    name = Path(invocation.argv[1])
    for base in (reader.path.parent, Path()):
        try:
            file = base / name
            if file.is_file():
                with open_regular(file, _LARGEST_SOURCED) as script:
                    text = script.read(_LARGEST_SOURCED).decode("utf-8", "replace")
                return reader.nested(text.replace("\0", "?"), world, depth)
        except OSError:
            continue
        except BadRecord as error:
            world.work.note(f"it sources {error.reason}")
    return [world]


def _shift(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    if world.positional:
        world.positional = world.positional[1:]
    for name in [name for name in world.scalars if name.isdigit()]:
        del world.scalars[name]
    return [world]


def _read(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    for word in invocation.argv[1:]:
        if word.isidentifier():
            world.forget(word)
    return [world]


def _nothing(reader: Reader, invocation: Invocation, world: World, depth: int) -> list[World]:
    return [world]


_BUILTINS: dict[str, Callable[..., list[World]]] = {
    "set": _set,
    "exit": _exit,
    "return": _exit,
    "exec": _exec,
    "eval": _eval,
    "source": _source,
    ".": _source,
    "shift": _shift,
    "read": _read,
    "mapfile": _read,
    "readarray": _read,
    "echo": _nothing,
    "printf": _nothing,
}
