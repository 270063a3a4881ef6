"""The statements of bash, carried out on worlds: what a script would do, without doing it.

What a condition depends on decides how it is read. Known text: one way. A default that the caller can change
(`${MODE:-fast}`): the default's way, and the others marked as assumptions. Anything else: all ways. Loops over known
words and counters run as often as they say; others once, and whatever they change is unknown. Functions and files that
are sourced by a known name are followed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quantctl.lint import conditions
from quantctl.lint.arms import arms
from quantctl.lint.assignments import assign, declare, unset
from quantctl.lint.commands import Commands, Place
from quantctl.lint.grammar import parse
from quantctl.lint.loops import Loops
from quantctl.lint.starts import MENTION
from quantctl.lint.ways import few
from quantctl.lint.words import Expander, source
from quantctl.lint.world import World

if TYPE_CHECKING:
    from tree_sitter import Node

    from quantctl.lint.conditions import Outcome

_STEP = 20
"""What a statement costs, in the units of Work."""
_TESTS = ("test_command", "compound_statement", "parenthesized_expression", "unary_expression", "binary_expression")


class Reader(Commands, Loops):
    """Reads the statements of one script, with what it sources and starts."""

    def statements(self, nodes: list[Node], worlds: list[World], place: Place) -> list[World]:
        for index, node in enumerate(nodes):
            if worlds and worlds[0].work.left < 0:
                return worlds
            if not node.is_named or node.type in ("comment", "heredoc_body", "heredoc_end"):
                continue
            background = index + 1 < len(nodes) and nodes[index + 1].type == "&"
            here = Place("it runs in the background", False, place.depth) if background else place
            after: list[World] = []
            for world in worlds:
                if world.ended:
                    after.append(world)
                    continue
                outer = world.copy() if background else None
                for each in self.statement(node, world, here):
                    if outer is not None:
                        each.leave_shell(outer)
                    after.append(each)
            worlds = few(after)
        return worlds

    def statement(self, node: Node, world: World, place: Place) -> list[World]:
        if not world.work.spend(_STEP):
            return [world]
        method = getattr(self, f"_{node.type}", None)
        if method is not None:
            found: list[World] = method(node, world, place)
            return found
        if node.type == "ERROR":
            Expander(world).forget_assigned_in(source(node))
            if MENTION.search(source(node)):
                world.work.unread[f"line {node.start_point[0] + 1}: bash's grammar does not take it"] = None
        return [world]

    def _program(self, node: Node, world: World, place: Place) -> list[World]:
        return self.statements(node.children, [world], place)

    _do_group = _program

    def _compound_statement(self, node: Node, world: World, place: Place) -> list[World]:
        if node.children and node.children[0].type == "((":
            return [self._with_status(after, truth, place) for truth, after in conditions.outcomes(node, world)]
        return self.statements(node.children, [world], place)

    def _test_command(self, node: Node, world: World, place: Place) -> list[World]:
        return [self._with_status(after, truth, place) for truth, after in conditions.outcomes(node, world)]

    def _with_status(self, world: World, truth: bool | None, place: Place) -> World:
        world.status = truth
        if truth is False and "errexit" in world.options and not (place.checked or place.tested):
            world.ended = "exit"
        return world

    def _subshell(self, node: Node, world: World, place: Place) -> list[World]:
        outer = world.copy()
        after = self.statements(node.children, [world], place)
        for each in after:
            each.leave_shell(outer)
        return after

    # ---- assignments ----

    def _variable_assignment(self, node: Node, world: World, place: Place) -> list[World]:
        world.status = True
        assign(node, world)
        return [world]

    def _variable_assignments(self, node: Node, world: World, place: Place) -> list[World]:
        for child in node.children:
            assign(child, world)
        return [world]

    def _declaration_command(self, node: Node, world: World, place: Place) -> list[World]:
        declare(node, world)
        world.status = True
        return [world]

    def _unset_command(self, node: Node, world: World, place: Place) -> list[World]:
        unset(node, world)
        return [world]

    def _function_definition(self, node: Node, world: World, place: Place) -> list[World]:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            world.functions[source(name)] = body
        return [world]

    # ---- control flow ----

    def truths(self, node: Node, world: World, place: Place) -> list[Outcome]:
        """Each way that a statement can go, as a condition: commands in it are run, their failure is looked at."""
        here = Place(None, True, place.depth)
        if node.type == "list":
            operator = node.children[1].type
            found: list[Outcome] = []
            for truth, after in self.truths(node.children[0], world, place):
                if after.ended or truth != (operator == "&&"):
                    found.append((truth, after))
                else:
                    found += self.truths(node.children[-1], after, place)
            return found
        if node.type == "negated_command":
            return [(not truth, after) for truth, after in self.truths(node.children[-1], world, place)]
        if node.type in _TESTS and (node.type != "compound_statement" or node.children[0].type == "(("):
            return conditions.outcomes(node, world)
        return self._outcomes(node, world, here)

    def _outcomes(self, node: Node, world: World, place: Place) -> list[Outcome]:
        """Where a statement's success is known, that; else both."""
        found: list[Outcome] = []
        for after in self.statement(node, world, place):
            if after.ended or after.status is not None:
                found.append((after.status is not False, after))
            else:
                found += conditions.both(node, after)
        return found

    def _condition(self, tests: list[Node], world: World, place: Place) -> list[Outcome]:
        if not tests:
            return [(True, world)]
        before = self.statements(tests[:-1], [world], Place(None, True, place.depth))
        found: list[Outcome] = []
        for each in before:
            found += [(True, each)] if each.ended else self.truths(tests[-1], each, place)
        return found

    def _if_statement(self, node: Node, world: World, place: Place) -> list[World]:
        return self._branch(node.children, world, place)

    def _branch(self, children: list[Node], world: World, place: Place) -> list[World]:
        """`if TESTS then BODY` with the clauses behind it."""
        then = next((i for i, child in enumerate(children) if child.type == "then"), len(children))
        tests = [child for child in children[1:then] if child.is_named]
        body = [child for child in children[then + 1 :] if child.type not in ("elif_clause", "else_clause", "fi")]
        others = [child for child in children if child.type in ("elif_clause", "else_clause")]
        found: list[World] = []
        for truth, after in self._condition(tests, world, place):
            if after.ended:
                found.append(after)
            elif truth:
                found += self.statements(body, [after], place)
            elif not others:
                after.status = True
                found.append(after)
            elif others[0].type == "else_clause":
                found += self.statements(others[0].children[1:], [after], place)
            else:
                found += self._branch([*others[0].children, *others[1:]], after, place)
        return found

    def _case_statement(self, node: Node, world: World, place: Place) -> list[World]:
        found: list[World] = []
        for item, after in arms(node, world):
            body = [] if item is None else item.children
            start = next((i for i, child in enumerate(body) if child.type == ")"), -1)
            if any(child.type in (";&", ";;&") for child in body):
                world.work.note("a case falls through to the next one in it (;&)")
            found += self.statements(body[start + 1 :], [after], place)
        return found

    def _list(self, node: Node, world: World, place: Place) -> list[World]:
        left, operator, right = node.children[0], node.children[1].type, node.children[-1]
        mask = _harmless(right) if operator == "||" else None
        here = Place(mask or place.masked, mask is None and (operator == "||" or place.checked), place.depth)
        found: list[World] = []
        for truth, after in self._sides(left, world, here):
            if after.ended or truth != (operator == "&&"):
                after.status = truth
                found.append(after)
            else:
                found += self.statement(right, after, place)
        return found

    def _sides(self, node: Node, world: World, place: Place) -> list[Outcome]:
        """The left side of `&&` or `||`, whose commands keep what the place says about their failure."""
        if node.type in (*_TESTS, "list", "negated_command"):
            return self.truths(node, world, place)
        return self._outcomes(node, world, Place(place.masked, place.checked, place.depth, place.group, True))

    def _negated_command(self, node: Node, world: World, place: Place) -> list[World]:
        after = self.statements(node.children, [world], Place(place.masked, True, place.depth))
        for each in after:
            each.status = None if each.status is None else not each.status
        return after


def _harmless(node: Node) -> str | None:
    """What stands behind `||` and takes the failure away: anything but a command that ends or reports."""
    text = source(node)
    if re.match(r"(true|:|echo|printf)\b", text) and not re.search(r"\b(exit|return|kill|fail|die)\b", text):
        return f"`|| {text.split()[0]}` takes its failure away"
    return None


__all__ = ["Place", "Reader", "parse"]
