"""`read`, `mapfile` and `printf`: text that a script takes apart or puts together itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantctl.lint.fields import DEFAULT_IFS, Fields, Piece
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known

if TYPE_CHECKING:
    from quantctl.lint.redirections import Redirections

_READ, _MAPFILE = "dinNptu", "dnOsuCc"
"""Options that take a value."""


def _options(words: list[str], valued: str) -> dict[str, str]:
    """Options of `read` and `mapfile`, taken off the front; switches have an empty value."""
    found: dict[str, str] = {}
    while words and words[0].startswith("-") and len(words[0]) > 1:
        letters = words.pop(0)[1:]
        for index, letter in enumerate(letters):
            if letter in valued:
                found[letter] = letters[index + 1 :] or (words.pop(0) if words else "")
                break
            found[letter] = ""
    return found


def read(reader: object, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    """`read`: into names, or into the elements of one list with -a."""
    words = list(invocation.argv[1:])
    options = _options(words, _READ)
    names = [word for word in words if word.isidentifier()]
    text = given.text
    world.status = None
    separator = invocation.environment.get("IFS", world.scalars.get("IFS", DEFAULT_IFS))
    whole_text = options.get("d") == "" and "d" in options
    fine = set(options) <= {"r", "a", "d"} and ("d" not in options or whole_text)
    if text is None or not known(separator) or not fine or (text == UNKNOWN) or MANY in " ".join(words):
        for name in [*names, *(["REPLY"] if not names else [])]:
            world.arrays.pop(name, None)
            world.assign_array(name, (MANY,)) if "a" in options else world.assign(name, UNKNOWN)
        return [world]
    line = text if whole_text else text.partition("\n")[0]
    if "r" not in options and "\\" in line:
        line = UNKNOWN
    if "a" in options:
        items = Fields(world.work, separator).add([Piece(line, False, True)]) if known(line) else [MANY]
        for name in names[:1]:
            world.assign_array(name, tuple(items))
        return [world]
    world.status = not whole_text if text else False
    if not names:
        world.assign("REPLY", line)
        return [world]
    for name, value in zip(names, _into(line, len(names), separator), strict=True):
        world.assign(name, value)
    return [world]


def _into(line: str, count: int, separators: str) -> list[str]:
    """A line over names: the last one takes the rest."""
    if not known(line):
        return [UNKNOWN] * count
    blanks = "".join(sign for sign in separators if sign in DEFAULT_IFS)
    rest, found = line.strip(blanks) if blanks else line, []
    for _ in range(count - 1):
        at = next((index for index, sign in enumerate(rest) if sign in separators), None)
        if at is None:
            found.append(rest)
            rest = ""
            continue
        found.append(rest[:at])
        after = rest[at:].lstrip(blanks) if blanks else rest[at:]
        if after and after[0] in separators and after[0] not in blanks:
            after = after[1:].lstrip(blanks) if blanks else after[1:]
        rest = after
    if rest and rest[-1] in separators and rest[-1] not in blanks:
        # one separator at the end that nothing else needs goes, too
        body = rest[:-1]
        rest = body.rstrip(blanks) if not any(sign in separators and sign not in blanks for sign in body) else rest
    return [*found, rest]


def mapfile(reader: object, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    """`mapfile -t NAME <<< TEXT`: its lines."""
    words = list(invocation.argv[1:])
    options = _options(words, _MAPFILE)
    name = words[0] if words else "MAPFILE"
    text = given.text
    if name.isidentifier():
        if text is None or not known(text) or set(options) - {"t"} or "t" not in options:
            world.assign_array(name, (MANY,))
        else:
            lines = text.split("\n")
            world.assign_array(name, tuple(lines[:-1] if lines[-1] == "" else lines))
    return [world]


def getopts(reader: object, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    for word in (*invocation.argv[2:3], "OPTARG", "OPTIND"):
        if word.isidentifier():
            world.forget(word)
    world.status = None if world.positional is None or world.positional else False
    return [world]
