"""The statements of bash, carried out on worlds: what a script would do, without doing it.

What a condition depends on decides how it is read. Known text: one way. A default that the caller can change
(`${MODE:-fast}`): the default's way, and the others marked as assumptions. Anything else: all ways. Loops run once, or
not at all; whatever they change is unknown. Functions and files that are sourced by a known name are followed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantctl.errors import QuantctlError
from quantctl.lint import builtins, conditions
from quantctl.lint.assignments import assign, declare, forget_assigned, local_names, restore, unset
from quantctl.lint.words import Expander, source
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known, merged

if TYPE_CHECKING:
    from tree_sitter import Language, Node

_MOST_WORLDS = 16
_STEP, _CALL = 20, 100
"""What a statement and a function's call cost, in the units of Work."""
_DEEPEST = 8
# <path to data> in an inner shell's text would be a redirection there; nobody knows what will stand in its place
_PLACEHOLDER = re.compile(r"<[A-Za-z](?:[^<>\n]*[^<>\s])?>")
_TRANSPARENT = ("redirected_statement", "compound_statement", "program", "do_group", "subshell")


@dataclass(frozen=True)
class Place:
    """Where a statement stands."""

    masked: str | None = None
    checked: bool = False
    """Its failure is looked at: in a condition, or left of `||`."""
    depth: int = 0
    group: int = 0
    """The pipeline that it is part of."""


@lru_cache(maxsize=1)
def _grammar() -> Language:
    try:
        import tree_sitter
        import tree_sitter_bash
    except ImportError as error:
        raise QuantctlError(
            f"scripts are read with tree-sitter, which is not installed ({error.name})",
            "pip install 'quantctl[lint]'; `quantctl lint -- COMMAND` does without it",
        ) from error

    return tree_sitter.Language(tree_sitter_bash.language())


def parse(text: str) -> Node:
    """The syntax tree of a script."""
    grammar = _grammar()
    import tree_sitter

    return tree_sitter.Parser(grammar).parse(text.encode("utf-8", "replace")).root_node


class Reader:
    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.functions: dict[str, Node] = {}

    def statements(self, nodes: list[Node], worlds: list[World], place: Place) -> list[World]:
        for index, node in enumerate(nodes):
            if worlds and worlds[0].work.left < 0:
                return worlds
            if not node.is_named or node.type == "comment":
                continue
            background = index + 1 < len(nodes) and nodes[index + 1].type == "&"
            here = Place("it runs in the background", False, place.depth) if background else place
            after: list[World] = []
            for world in worlds:
                after += [world] if world.ended else self.statement(node, world, here)
            worlds = merged(after, _MOST_WORLDS) if len(after) > 1 else after
        return worlds

    def statement(self, node: Node, world: World, place: Place) -> list[World]:
        if not world.work.spend(_STEP):
            return [world]
        method = getattr(self, f"_{node.type}", None)
        if method is not None:
            found: list[World] = method(node, world, place)
            return found
        if node.type in _TRANSPARENT:
            return self._block(node, world, place)
        return [world]

    def _block(self, node: Node, world: World, place: Place) -> list[World]:
        if node.children and node.children[0].type == "((":
            return [world]
        after = self.statements(node.children, [world], place)
        if node.type == "subshell":
            for each in after:
                each.ended = world.ended
        return after

    # ---- assignments ----

    def _variable_assignment(self, node: Node, world: World, place: Place) -> list[World]:
        assign(node, world)
        return [world]

    def _variable_assignments(self, node: Node, world: World, place: Place) -> list[World]:
        for child in node.children:
            assign(child, world)
        return [world]

    def _declaration_command(self, node: Node, world: World, place: Place) -> list[World]:
        declare(node, world)
        return [world]

    def _unset_command(self, node: Node, world: World, place: Place) -> list[World]:
        unset(node, world)
        return [world]

    # ---- control flow ----

    def _if_statement(self, node: Node, world: World, place: Place) -> list[World]:
        tests = [child for child in node.children_by_field_name("condition") if child.is_named]
        return self._branch(node.children, tests, world, place)

    def _branch(self, children: list[Node], tests: list[Node], world: World, place: Place) -> list[World]:
        then = next((i for i, child in enumerate(children) if child.type == "then"), len(children))
        body = [child for child in children[then + 1 :] if child.type not in ("elif_clause", "else_clause", "fi")]
        others = [child for child in children if child.type in ("elif_clause", "else_clause")]
        found: list[World] = []
        for truth, after in self._condition(tests, world, place):
            if truth:
                found += self.statements(body, [after], place)
            elif others:
                found += self._otherwise(others, after, place)
            else:
                found.append(after)
        return found

    def _otherwise(self, clauses: list[Node], world: World, place: Place) -> list[World]:
        first, *rest = clauses
        if first.type == "else_clause":
            return self.statements(first.children[1:], [world], place)
        then = next((i for i, child in enumerate(first.children) if child.type == "then"), 1)
        tests = [child for child in first.children[1:then] if child.is_named]
        return self._branch([*first.children[then:], *rest], tests, world, place)

    def _condition(self, tests: list[Node], world: World, place: Place) -> list[conditions.Outcome]:
        """Commands in a condition are run like others, but their failure is looked at."""
        if not tests:
            return [(True, world)]
        here = Place(None, True, place.depth)
        for test in tests:
            if test.type in ("command", "redirected_statement", "pipeline", "negated_command"):
                world = self.statement(test, world, here)[0]
        return conditions.outcomes(tests[-1], world)

    def _case_statement(self, node: Node, world: World, place: Place) -> list[World]:
        found: list[World] = []
        for item, after in conditions.arms(node, world):
            body = [] if item is None else item.children
            start = next((i for i, child in enumerate(body) if child.type == ")"), -1)
            found += self.statements(body[start + 1 :], [after], place)
        return found

    def _list(self, node: Node, world: World, place: Place) -> list[World]:
        left, operator, right = node.children[0], node.children[1].type, node.children[-1]
        if left.type not in ("test_command", "compound_statement", "list", "negated_command"):
            mask = _harmless(right) if operator == "||" else None
            here = Place(mask or place.masked, mask is None and (operator == "||" or place.checked), place.depth)
            worlds = self.statement(left, world, here)
        else:
            worlds = [world]
        found: list[World] = []
        for each in worlds:
            if each.ended:
                found.append(each)
                continue
            for truth, after in conditions.outcomes(left, each):
                if truth == (operator == "&&"):
                    found += self.statement(right, after, place)
                else:
                    found.append(after)
        return found

    def _for_statement(self, node: Node, world: World, place: Place) -> list[World]:
        name, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        if name is None or body is None:
            return [world]
        expander = Expander(world)
        words = [word for value in node.children_by_field_name("value") for word in expander.words(value)]
        forget_assigned(body, world)
        world.assign(source(name), words[0] if len(words) == 1 and known(words[0]) else UNKNOWN)
        return self._once(body, world, place)

    def _c_style_for_statement(self, node: Node, world: World, place: Place) -> list[World]:
        return self._loop(node, world, place, node.child_by_field_name("condition"))

    def _while_statement(self, node: Node, world: World, place: Place) -> list[World]:
        tests = [child for child in node.children_by_field_name("condition") if child.is_named]
        return self._loop(node, world, place, tests[-1] if tests else None)

    def _loop(self, node: Node, world: World, place: Place, test: Node | None) -> list[World]:
        body = node.child_by_field_name("body")
        if body is None or (test is not None and self._never(node, test, world)):
            return [world]
        forget_assigned(body, world)
        return self._once(body, world, place)

    def _never(self, node: Node, test: Node, world: World) -> bool:
        """A loop that a script started without arguments never enters."""
        if node.type == "c_style_for_statement":
            first = node.child_by_field_name("initializer")
            probe = world.copy()
            if first is not None and first.type == "variable_assignment":
                assign(first, probe)
            return Expander(probe).number(test) == 0
        first_way = conditions.outcomes(test, world.copy())
        return not source(node).startswith("until") and not first_way[0][0] and "$#" in source(test)

    def _once(self, body: Node, world: World, place: Place) -> list[World]:
        after = self.statements(body.children, [world], place)
        for each in after:
            forget_assigned(body, each)
        return after

    def _function_definition(self, node: Node, world: World, place: Place) -> list[World]:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            self.functions[source(name)] = body
        return [world]

    # ---- commands ----

    def _pipeline(self, node: Node, world: World, place: Place) -> list[World]:
        stages = [child for child in node.children if child.is_named]
        lost = "pipefail" not in world.options and not place.checked
        for index, stage in enumerate(stages):
            name = source(stages[-1]).strip().partition(" ")[0]
            into = f"it is piped into {name} without `set -o pipefail`"
            masked = into if lost and index + 1 < len(stages) else place.masked
            here = Place(masked, place.checked, place.depth, node.start_byte + 1)
            worlds = self.statement(stage, world, here)
            world = next((each for each in worlds if not each.ended), worlds[0])
        return [world]

    def _negated_command(self, node: Node, world: World, place: Place) -> list[World]:
        return self.statements(node.children, [world], Place(place.masked, True, place.depth))

    def _redirected_statement(self, node: Node, world: World, place: Place) -> list[World]:
        body = node.child_by_field_name("body")
        if body is None:
            return [world]
        if body.type != "command":
            return self.statement(body, world, place)
        # the grammar takes arguments behind `> file` for more of its targets; behind `<` it is a placeholder's rest
        targets = [
            redirect.children_by_field_name("destination")[1:]
            for redirect in node.children_by_field_name("redirect")
            if b">" in (redirect.text or b"").split()[0]
        ]
        return self._command(body, world, place, [word for words in targets for word in words])

    def _command(self, node: Node, world: World, place: Place, more: list[Node] | None = None) -> list[World]:
        expander = Expander(world)
        prefix: dict[str, str] = {}
        for child in node.children:
            if child.type == "variable_assignment":
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is not None:
                    prefix[source(name)] = expander.text(value)
        parts = [child for child in node.children if child.is_named and child.type != "variable_assignment"]
        argv = expander.sequence([child for child in parts if not child.type.endswith("redirect")] + (more or []))
        if node.has_error:
            argv.append(MANY)
        if not argv:
            return [world]
        body = self.functions.get(argv[0])
        if body is not None and place.depth >= _DEEPEST:
            world.work.note(f"functions call each other more than {_DEEPEST} deep")
            return [world]
        if body is not None:
            return self._call(body, tuple(argv[1:]), world, place)
        invocation = Invocation(
            tuple(argv),
            node.start_point[0] + 1,
            world.environment() | prefix,
            place.masked,
            place.group,
            place.checked or ("errexit" in world.options and place.masked is None),
        )
        return builtins.run(self, invocation, world, place.depth)

    def _call(self, body: Node, arguments: tuple[str, ...], world: World, place: Place) -> list[World]:
        world.work.spend(_CALL)
        inner = world.copy()
        inner.positional = arguments
        after = self.statements([body], [inner], Place(place.masked, place.checked, place.depth + 1))
        for each in after:
            each.positional = world.positional
            for name in local_names(body):
                restore(name, world, each)
            if each.ended == "return":
                each.ended = ""
        return after

    def nested(self, text: str, world: World, depth: int, name: Path | None = None) -> list[World]:
        """Run text as more of the script: `eval`, `sh -c`, `source`."""
        if depth >= _DEEPEST:
            world.work.note(f"scripts run or source each other more than {_DEEPEST} deep")
            return [world]
        world.work.spend(len(text) // 20)
        filled = _PLACEHOLDER.sub(MANY, text)
        return self.statements(parse(filled).children, [world], Place(None, True, depth + 1))


def _harmless(node: Node) -> str | None:
    """What stands behind `||` and takes the failure away: anything but a command that ends or reports."""
    text = source(node)
    if re.match(r"(true|:|echo|printf)\b", text) and not re.search(r"\b(exit|return|kill|fail|die)\b", text):
        return f"`|| {text.split()[0]}` takes its failure away"
    return None
