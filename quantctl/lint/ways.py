"""Several ways through a script kept few: equal ones are one, and what is too much is joined, not dropped."""

from __future__ import annotations

from quantctl.lint.world import MANY, UNKNOWN, World

MOST = 16
"""Ways that go on, and as many that have ended."""
_A_FEW = 6
"""Words of a command that is no training."""


def state(world: World) -> tuple[object, ...]:
    """Equal for ways that cannot differ from here on."""
    return (
        tuple(sorted(world.scalars.items())),
        tuple(sorted(world.arrays.items())),
        tuple(sorted((name, tuple(sorted(values or ()))) for name, values in world.soft.items())),
        tuple(sorted((name, tuple(sorted(values))) for name, values in world.never.items())),
        tuple(sorted((name, node.start_byte) for name, node in world.functions.items())),
        tuple(sorted(world.saved or ())),
        _rest(world),
    )


def _rest(world: World) -> tuple[object, ...]:
    return (
        world.exported,
        world.gone,
        world.positional,
        world.options,
        world.invocations,
        world.ended,
        world.output,
        world.input,
        world.status,
    )


def few(worlds: list[World]) -> list[World]:
    """The same ways, each once, nearest to the defaults first. Ways that ended take no place of those that go on."""
    if len(worlds) < 2:
        return worlds
    sizes = sum(len(world.scalars) + len(world.arrays) + len(world.invocations) for world in worlds)
    if not worlds[0].work.spend(sizes):
        return worlds[:1]
    worlds = sorted(worlds, key=lambda world: (len(world.assumed), len(world.branches)))
    kept: dict[tuple[object, ...], World] = {}
    for world in worlds:
        kept.setdefault(state(world), world)
    live = [world for world in kept.values() if not world.ended]
    ended = [world for world in kept.values() if world.ended]
    return [*_joined(live), *_with_work(ended)]


def _with_work(ended: list[World]) -> list[World]:
    """Of ways that ended those that started something long, then the others."""
    if len(ended) <= MOST:
        return ended
    ended = sorted(ended, key=lambda world: not any(len(one.argv) > _A_FEW for one in world.invocations))
    if any(len(one.argv) > _A_FEW for one in ended[MOST].invocations):
        ended[0].work.note(f"more than {MOST} ways through it end early with a long command behind them")
    return ended[:MOST]


def _joined(live: list[World]) -> list[World]:
    """At most MOST: the ways farthest from the defaults become one, in which what they differ in is unknown."""
    while len(live) > MOST:
        last = live.pop()
        _join(live[-1], last)
    return live


def _join(one: World, other: World) -> None:
    """Let `one` stand for both: what both know alike stays, and the commands of both count."""
    for name in {*one.scalars, *one.arrays, *other.scalars, *other.arrays}:
        same = one.scalars.get(name) == other.scalars.get(name) and one.arrays.get(name) == other.arrays.get(name)
        if same and one.soft.get(name, ()) == other.soft.get(name, ()):
            continue
        array = name in one.arrays or name in other.arrays
        one.drop_value(name)
        if array:
            one.arrays[name] = (MANY,)
        else:
            one.scalars[name] = UNKNOWN
    one.never = {name: values & other.never[name] for name, values in one.never.items() if name in other.never}
    for name, body in other.functions.items():
        if one.functions.setdefault(name, body) != body:
            one.work.note(f"the function {name} is another one on each of many ways through it")
    one.gone &= other.gone
    one.exported |= other.exported
    one.options &= other.options
    one.status = one.status if one.status == other.status else None
    if one.positional != other.positional:
        one.positional = (MANY,)
    if one.output != other.output:
        one.output = UNKNOWN
    if one.input != other.input:
        one.input = UNKNOWN
    known = set(one.invocations)
    one.invocations += tuple(each for each in other.invocations if each not in known)
    one.branches = tuple(dict.fromkeys((*one.branches, "any of several branches")))
