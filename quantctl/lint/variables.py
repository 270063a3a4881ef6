"""Variables of bash: values, elements of lists, names behind names."""

from __future__ import annotations

from collections.abc import Callable

from quantctl.lint.parts import NAME, NAME_START, Parameter
from quantctl.lint.scan import scan
from quantctl.lint.world import MANY, UNKNOWN, World, known

Value = str | tuple[str, ...] | None


# what bash or the session sets itself
# fmt: off
_SET_BY_OTHERS = frozenset((
    "?", "$", "!", "-", "0", "_", "PWD", "OLDPWD", "HOME", "USER", "LOGNAME", "HOSTNAME", "UID", "EUID", "GROUPS",
    "RANDOM", "SRANDOM", "SECONDS", "LINENO", "SHELL", "PPID", "SHLVL", "OSTYPE", "HOSTTYPE", "MACHTYPE", "PATH",
    "TMPDIR", "TERM", "LANG", "EPOCHSECONDS", "EPOCHREALTIME", "FUNCNAME", "PIPESTATUS", "OPTIND", "OPTARG",
    "DIRSTACK", "SHELLOPTS", "COLUMNS", "LINES", "PS4", "IFS", "REPLY", "COMP_WORDBREAKS", "OPTERR", "MAPFILE",
    "COPROC",
))
# fmt: on


LISTS = ("@", "*")


def is_open(words: tuple[str, ...]) -> bool:
    """Whether nobody knows how many words these are."""
    return any(MANY in word for word in words)


class Variables:
    """The part of an Expander that knows what variables hold."""

    world: World
    soft: bool
    number: Callable[[str], int | None]

    def value_of_part(self, part: Parameter) -> Value:
        if part.prefix == "!":
            return self._behind(part)
        if part.index is None:
            return self.value(part.name)
        return self.element(part.name, part.index)

    def _behind(self, part: Parameter) -> Value:
        """`${!NAME}`: the variable whose name it holds; `${!NAME[@]}`: the places of its elements."""
        if part.index in LISTS:
            items = self.world.arrays.get(part.name)
            if items is None or is_open(items):
                return (MANY,)
            return tuple(map(str, range(len(items))))
        name = self.value(part.name) if part.index is None else self.element(part.name, part.index)
        if not isinstance(name, str) or not known(name) or not name:
            return UNKNOWN
        if name[0] in NAME_START and set(name) <= NAME:
            return self.value(name)
        if name.isdigit():
            return self.value(name)
        inner = scan("${" + name + "}") if set(name) <= NAME | set("[]@*") else ()
        if len(inner) == 1 and isinstance(inner[0], Parameter) and inner[0].index is not None:
            return self.element(inner[0].name, inner[0].index)
        return UNKNOWN

    def surely_unset(self, part: Parameter) -> bool:
        """Whether a parameter without a value has none from the caller either."""
        world = self.world
        if part.name.isdigit() and world.positional is not None:
            return not is_open(world.positional)
        return part.prefix == "" and (part.name in world.gone or part.name in world.arrays)

    def element(self, name: str, index: str) -> Value:
        items = self.world.arrays.get(name)
        if items is None:
            value = self.value(name)
            if index in LISTS and name in self.world.gone:
                return ()
            if index in LISTS:
                return (MANY,) if value is None or not isinstance(value, str) else (value,)
            return value if value is None or self.number(index) == 0 else UNKNOWN
        if index in LISTS:
            return items
        number = self.number(index)
        if number is None or any(MANY in item for item in items):
            return UNKNOWN
        return items[number] if -len(items) <= number < len(items) else None

    def value(self, name: str) -> Value:
        """A variable's value; None if the script did not set it."""
        world = self.world
        if name in LISTS:
            return (MANY,) if world.positional is None else world.positional
        if name == "#":
            if world.positional is not None and is_open(world.positional):
                return UNKNOWN
            self.soft = self.soft or world.positional is None
            return str(len(world.positional or ()))
        if name.isdigit() and name != "0":
            if world.positional is None:
                return world.scalars.get(name)
            if MANY in "".join(world.positional[: int(name[:6])]):
                return UNKNOWN
            return world.positional[int(name) - 1] if len(name) < 6 and int(name) <= len(world.positional) else None
        if name in world.arrays:
            items = world.arrays[name]
            return (UNKNOWN if MANY in items[0] else items[0]) if items else None
        self.soft = self.soft or name in world.soft
        if name in _SET_BY_OTHERS:
            return world.scalars.get(name, UNKNOWN)
        return world.scalars.get(name)
