"""Loops of bash: those over known words and counters run as often as they say, others once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantctl.lint.assignments import assign, forget_assigned
from quantctl.lint.commands import Place
from quantctl.lint.ways import few
from quantctl.lint.words import Expander, source, spans
from quantctl.lint.world import MANY, UNKNOWN, World, known

if TYPE_CHECKING:
    from collections.abc import Callable

    from tree_sitter import Node

    from quantctl.lint.conditions import Outcome

_MOST_ROUNDS = 200


class Loops:
    """The part of a Reader that knows loops."""

    statements: Callable[[list[Node], list[World], Place], list[World]]
    _condition: Callable[[list[Node], World, Place], list[Outcome]]

    def _for_statement(self, node: Node, world: World, place: Place) -> list[World]:
        name, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        if name is None or body is None:
            return [world]
        expander = Expander(world)
        if any(child.type == "in" for child in node.children):
            values = spans(node.children_by_field_name("value"), node)
            words = [word for text in values for word in ([MANY] if text is None else expander.words(text))]
        else:
            words = list(world.positional if world.positional is not None else (MANY,))
        if node.children[0].type == "select" or len(words) > _MOST_ROUNDS or any(MANY in word for word in words):
            forget_assigned(body, world)
            world.assign(source(name), UNKNOWN)
            return self._once(body, world, place)
        worlds = [world]
        for word in words:
            after: list[World] = []
            for each in worlds:
                if each.ended:
                    after.append(each)
                    continue
                each.assign(source(name), word, expander.soft and known(word))
                after += self._round(body, each, place)
            worlds = few(after)
            if all(each.ended for each in worlds):
                break
        return self._left(worlds)

    def _round(self, body: Node, world: World, place: Place) -> list[World]:
        after = self.statements(body.children, [world], place)
        for each in after:
            if each.ended == "continue":
                each.ended = ""
        return after

    def _left(self, worlds: list[World]) -> list[World]:
        for each in worlds:
            if each.ended in ("break", "continue"):
                each.ended = ""
        return few(worlds)

    def _c_style_for_statement(self, node: Node, world: World, place: Place) -> list[World]:
        body = node.child_by_field_name("body")
        first = node.child_by_field_name("initializer")
        if body is None:
            return [world]
        if first is not None:
            _compute(first, world)
        condition, step = node.child_by_field_name("condition"), node.child_by_field_name("update")

        def tests(each: World) -> list[Outcome]:
            if condition is None:
                return [(True, each)]
            expander = Expander(each)
            value = expander.number(source(condition))
            if value is None:
                return [(True, each), (False, each.copy())]
            return [(bool(value), each)]

        def after_round(each: World) -> None:
            if step is not None:
                _compute(step, each)

        return self._rounds(body, world, place, tests, after_round)

    def _while_statement(self, node: Node, world: World, place: Place) -> list[World]:
        body = node.child_by_field_name("body")
        if body is None:
            return [world]
        until = node.children[0].type == "until"
        conditions = [
            child for child in node.children[1:] if child.is_named and child.type not in ("do_group", "comment")
        ]

        def tests(each: World) -> list[Outcome]:
            found = self._condition(conditions, each, place)
            return [(truth != until, after) for truth, after in found]

        return self._rounds(body, world, place, tests, lambda each: None)

    def _rounds(
        self,
        body: Node,
        world: World,
        place: Place,
        tests: Callable[[World], list[Outcome]],
        after_round: Callable[[World], None],
    ) -> list[World]:
        """Run as long as every way agrees that the loop goes on; if not, one last round changes all to unknown."""
        worlds, finished = [world], []
        for _ in range(_MOST_ROUNDS):
            going: list[World] = []
            for each in worlds:
                found = tests(each.copy())
                if len(found) > 1 or (found[0][1].ended == "" and found[0][1].work.left < 0):
                    finished += self._unsure(body, each, place, tests)
                    continue
                truth, after = found[0]
                if after.ended or not truth:
                    finished.append(after)
                else:
                    going += self._round(body, after, place)
            finished += [each for each in going if each.ended]
            worlds = few([each for each in going if not each.ended])
            for each in worlds:
                after_round(each)
            if not worlds:
                return self._left(finished)
        for each in worlds:
            forget_assigned(body, each)
            each.work.note(f"a loop goes round more than {_MOST_ROUNDS} times")
        return self._left([*finished, *worlds])

    def _unsure(self, body: Node, world: World, place: Place, tests: Callable[[World], list[Outcome]]) -> list[World]:
        """Nobody knows how often: not at all, or once as one of many rounds."""
        forget_assigned(body, world)
        found: list[World] = []
        for truth, after in tests(world):
            if truth and not after.ended:
                found += self._once(body, after, place)
            else:
                found.append(after)
        return few(found)

    def _once(self, body: Node, world: World, place: Place) -> list[World]:
        after = self._round(body, world, place)
        for each in after:
            forget_assigned(body, each)
        return self._left(after)


def _compute(node: Node, world: World) -> None:
    if node.type == "variable_assignment":
        # `i = 0` is no assignment of the shell, `i=0` looks like one
        Expander(world).number(source(node)) if "[" not in source(node) else assign(node, world)
    else:
        Expander(world).number(source(node))
