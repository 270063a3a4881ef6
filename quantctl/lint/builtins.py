"""What the shell's own commands do to a world; every other command is one that the script starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quantctl.lint import input_lines, printing
from quantctl.lint.assignments import assign_word
from quantctl.lint.fields import one_text
from quantctl.lint.inner import Reads, script_text
from quantctl.lint.redirections import Redirections
from quantctl.lint.starts import LOOKERS, MENTION, base
from quantctl.lint.words import Expander
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known
from quantctl.outside.numbers import whole

# what these say before anything long has run makes no difference between two ways through a script
_SILENT = (
    "echo",
    "printf",
    "true",
    "false",
    ":",
    "shift",
    "set",
    "command",
    "[",
    "test",
    "let",
    "local",
    "break",
    "continue",
)
_A_FEW = 6
_LETTERS = {"e": "errexit", "u": "nounset"}
_NAMES = ("errexit", "pipefail", "nounset")


def run(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    """The worlds after a command."""
    name = invocation.argv[0]
    if name in ("builtin", "command") and invocation.argv[1:2] and not invocation.argv[1].startswith("-"):
        invocation = replace(invocation, argv=invocation.argv[1:])
        name = invocation.argv[0]
    if name not in _SILENT or any(len(one.argv) > _A_FEW for one in world.invocations):
        world.work.spend(len(world.invocations) // 16)
        world.invocations += (invocation,)
    if name in _BUILTINS:
        world.status = True
        return _BUILTINS[name](reader, invocation, given, world, depth)
    world.status = None
    world.prints(UNKNOWN)
    if base(name) not in LOOKERS and any(MENTION.search(word) and " " in word for word in invocation.argv[1:]):
        said = base(name).replace(UNKNOWN, "…").replace(MANY, "…")
        world.work.unread[f"line {invocation.line}: {said} gets a training command in one word, which is not read"] = (
            None
        )
    return [world]


def _set(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    arguments = list(invocation.argv[1:])
    while arguments:
        word = arguments.pop(0)
        if MANY in word:
            world.positional = (MANY,)
            return [world]
        if word in ("-", "--") or not word.startswith(("-", "+")):
            world.positional = tuple(arguments if word in ("-", "--") else [word, *arguments])
            _forget_positional(world)
            return [world]
        names = {_LETTERS[letter] for letter in word[1:] if letter in _LETTERS}
        if "o" in word[1:] and arguments:
            names |= {arguments.pop(0)} & set(_NAMES)
        if "f" in word[1:]:
            world.work.note("it switches patterns off (set -f)")
        world.options = world.options | names if word.startswith("-") else world.options - names
    return [world]


def _forget_positional(world: World) -> None:
    for name in [name for name in world.scalars if name.isdigit()]:
        del world.scalars[name]


def _exit(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    world.ended = invocation.argv[0]
    code = invocation.argv[1] if len(invocation.argv) > 1 else None
    world.status = None if code is None or not known(code) else whole(code) == 0
    return [world]


def _break(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    if invocation.argv[1:2] not in ((), ("1",)):
        world.work.note(f"it leaves several loops at once ({' '.join(invocation.argv[:2])})")
    world.ended = invocation.argv[0]
    return [world]


def _exec(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    """The script becomes the command; a bare `exec > log` only redirects."""
    if len(invocation.argv) > 1:
        replaced = replace(invocation, argv=invocation.argv[1:], stops=True)
        world.invocations = world.invocations[:-1]
        handed = reader.hand_over(replaced, given, world, depth)
        if handed is None:
            world.invocations = (*world.invocations, replaced)
        after = [world] if handed is None else handed
        for each in after:
            each.ended = "exit"
        return after
    return [world]


def _eval(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    text = world.work.text(one_text(" ".join(world.work.words(invocation.argv[1:]))))
    before = len(world.invocations)
    after = reader.nested(text, world, depth, invocation.line)
    for each in after:
        found = (
            replace(one, line=invocation.line, masked=invocation.masked, stops=invocation.stops)
            for one in each.invocations[before:]
        )
        each.invocations = (*each.invocations[:before], *found)
    return after


def _source(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    name = invocation.argv[1] if len(invocation.argv) > 1 else ""
    text = script_text(reader, name, world)
    world.status = None
    if text is None:
        return [world]
    arguments = invocation.argv[2:]
    positional = world.positional
    if arguments:
        world.positional = arguments
    after = reader.nested(text, world, depth, invocation.line)
    for each in after:
        if arguments:
            each.positional = positional
        if each.ended == "return":
            each.ended = ""
    return after


def _shift(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    count = whole(invocation.argv[1]) if len(invocation.argv) > 1 else 1
    if world.positional is None:
        _forget_positional(world)
    elif count is None or any(MANY in word for word in world.positional[:count]):
        world.positional = (MANY,)
    elif count > len(world.positional):
        world.status = False
    else:
        world.positional = world.positional[count:]
    return [world]


def _let(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    value: int | None = None
    for word in invocation.argv[1:]:
        value = Expander(world).number(word) if "$" not in word else None
    world.status = None if value is None else bool(value)
    return [world]


def _export(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    """Where the grammar did not see a declaration: behind `builtin`, or from an expansion."""
    for word in invocation.argv[1:]:
        if not word.startswith("-") and (name := assign_word(word, world)) and invocation.argv[0] == "export":
            world.exported |= {name}
    return [world]


def _nothing(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    return [world]


def _false(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    world.status = False
    return [world]


def _unsure(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    world.status = None
    return [world]


_BUILTINS: dict[str, Callable[..., list[World]]] = {
    "set": _set,
    "exit": _exit,
    "return": _exit,
    "break": _break,
    "continue": _break,
    "exec": _exec,
    "eval": _eval,
    "source": _source,
    ".": _source,
    "shift": _shift,
    "let": _let,
    "read": input_lines.read,
    "mapfile": input_lines.mapfile,
    "readarray": input_lines.mapfile,
    "getopts": input_lines.getopts,
    "echo": printing.echo,
    "printf": printing.printf,
    "export": _export,
    "declare": _export,
    "local": _export,
    "readonly": _export,
    "true": _nothing,
    ":": _nothing,
    "false": _false,
    "cd": _unsure,
    "test": _unsure,
    "[": _unsure,
    "wait": _unsure,
    "trap": _nothing,
    "shopt": _nothing,
    "ulimit": _unsure,
    "umask": _nothing,
    "pushd": _unsure,
    "popd": _unsure,
    "type": _unsure,
    "hash": _unsure,
}
