"""Commands of a script: words, redirections, here-documents, functions, and what a command has another shell run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantctl.lint import builtins
from quantctl.lint.assignments import assign
from quantctl.lint.grammar import parse
from quantctl.lint.handed import hand_over
from quantctl.lint.redirections import Redirections, redirections
from quantctl.lint.starts import MENTION
from quantctl.lint.words import Expander, source, tears
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World

if TYPE_CHECKING:
    from tree_sitter import Node

_CALL = 100
"""What a function's call costs, in the units of Work."""
_DEEPEST = 8
# <path to data> in an inner shell's text would be a redirection there; nobody knows what will stand in its place
_PLACEHOLDER = re.compile(r"<[A-Za-z](?:[^<>\n]*[^<>\s])?>")


@dataclass(frozen=True)
class Place:
    """Where a statement stands."""

    masked: str | None = None
    checked: bool = False
    """Its failure is looked at: in a condition, or left of `||`."""
    depth: int = 0
    group: int = 0
    """The pipeline that it is part of."""
    tested: bool = False
    """`set -e` does not end the script where it fails."""


class Commands:
    """The part of a Reader that knows commands."""

    statements: Callable[[list[Node], list[World], Place], list[World]]
    statement: Callable[[Node, World, Place], list[World]]

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.line: int | None = None
        """Where the command stands that has a text run which is being read; None in the script itself."""

    def _pipeline(self, node: Node, world: World, place: Place, first: World | None = None) -> list[World]:
        """Each stage is a subshell; only the last one's output is the pipeline's."""
        stages = [child for child in node.children if child.is_named]
        lost = "pipefail" not in world.options and not place.checked
        outer = world.copy()
        for index, stage in enumerate(stages):
            last = index + 1 == len(stages)
            name = source(stages[-1]).strip().partition(" ")[0]
            into = f"it is piped into {name} without `set -o pipefail`"
            here = Place(
                into if lost and not last else place.masked, place.checked, place.depth, node.start_byte + 1, True
            )
            world.output = outer.output if last else ""
            worlds = self.statement(stage, world, here)
            world = next((each for each in worlds if not each.ended), worlds[0])
            world.leave_shell(outer)
            world.input = None if last else world.output
        world.status = None
        return [world]

    def _redirected_statement(self, node: Node, world: World, place: Place) -> list[World]:
        body = node.child_by_field_name("body")
        found = redirections([child for child in node.children if child != body], Expander(world))
        if body is None:
            return [world]
        if body.type == "command":
            return self._command(body, world, place, found)
        before = world.output
        after = self.statement(body, world, place)
        for each in after:
            if found.elsewhere and before is not None:
                each.output = before
        return self._behind(found, after, place)

    def _behind(self, found: Redirections, worlds: list[World], place: Place) -> list[World]:
        """What the grammar hangs below a here-document: `<<EOF | cat`, `<<EOF && train`."""
        for node in found.behind:
            after: list[World] = []
            for each in worlds:
                after += [each] if each.ended else self._tail(node, each, place, found.text)
            worlds = after
        return worlds

    def _tail(self, node: Node, world: World, place: Place, text: str | None) -> list[World]:
        inside = [child for child in node.children if child.is_named]
        if node.type != "pipeline":
            return self.statements(inside or [node], [world], place)
        stages = inside[0].children if inside and inside[0].type in ("list", "pipeline") else inside
        world.input = text
        after = self.statements([stage for stage in stages if stage.is_named], [world], place)
        for each in after:
            each.input = None
        return after

    def _command(self, node: Node, world: World, place: Place, given: Redirections | None = None) -> list[World]:
        expander = Expander(world)
        prefix: dict[str, str] = {}
        parts = [child for child in node.children if child.is_named and child.type != "variable_assignment"]
        own = redirections([child for child in parts if child.type.endswith("redirect")], expander)
        found = own if given is None else own + given
        before = world.copy() if any(child.type == "variable_assignment" for child in node.children) else None
        rest: set[int] = set()
        for child, following in zip(node.children, [*node.children[1:], None], strict=True):
            if child.type == "variable_assignment":
                tail = following if following is not None and following.start_byte == child.end_byte else None
                rest |= set() if tail is None else {tail.start_byte}
                name = assign(child, world, "" if tail is None else source(tail))
                value = world.scalars.get(name, UNKNOWN)
                prefix[name] = value
        if tears(node):
            line = node.start_point[0] + 1
            world.work.note(f"line {line}: the grammar takes an escaped blank for the end of a word")
        if before is not None:
            for name in prefix:  # words do not see what stands in front of them
                world.give(name, before)
        words = [child for child in parts if not child.type.endswith("redirect") and child.start_byte not in rest]
        argv = expander.sequence(words, node) + list(found.words)
        if node.has_error:
            # what seems to stand in front of a command may be assignments alone
            expander.forget_assigned_in(source(node))
            argv.append(MANY)
        world.status = True
        if not argv:
            if before is not None and not words:  # assignments alone, which the grammar took for a command's
                for name, value in prefix.items():
                    world.assign(name, value)
            return [world]
        world.work.seen.update(
            range(node.start_point[0] + 1, node.end_point[0] + 2) if self.line is None else [self.line]
        )
        after = self._run(argv, node, prefix, found, world, place)
        return self._behind(found, after, place)

    def _run(
        self, argv: list[str], node: Node, prefix: dict[str, str], found: Redirections, world: World, place: Place
    ) -> list[World]:
        printed = world.output
        body = world.functions.get(argv[0])
        if body is not None and place.depth >= _DEEPEST:
            world.work.note(f"functions call each other more than {_DEEPEST} deep")
            return [world]
        if body is not None:
            after = self._call(body, tuple(argv[1:]), world, place)
        else:
            invocation = Invocation(
                tuple(argv),
                self.line or node.start_point[0] + 1,
                world.environment() | prefix,
                place.masked,
                place.group,
                place.checked or ("errexit" in world.options and place.masked is None),
            )
            handed = self.hand_over(invocation, found, world, place.depth)
            after = builtins.run(self, invocation, found, world, place.depth) if handed is None else handed
        for each in after:
            if found.elsewhere:
                each.output = printed
            stops = "errexit" in each.options and not (place.checked or place.tested)
            if each.status is False and stops and not each.ended:
                each.ended = "exit"
        return after

    def _call(self, body: Node, arguments: tuple[str, ...], world: World, place: Place) -> list[World]:
        world.work.spend(_CALL)
        outer = world.copy()
        world.positional, world.saved = arguments, {}
        where = Place(place.masked, place.checked, place.depth + 1, 0, place.tested)
        after = self.statements([body], [world], where)
        for each in after:
            for name, before in (each.saved or {}).items():
                each.give(name, before)
            each.positional, each.saved = outer.positional, outer.saved
            if each.ended == "return":
                each.ended = ""
        return after

    # ---- text that is run ----

    def hand_over(self, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World] | None:
        """The worlds after a command that has text run by another shell; None if it is any other command."""
        return hand_over(self, invocation, given, world, depth)

    def nested(self, text: str, world: World, depth: int, line: int | None = None) -> list[World]:
        """Run text as more of the script: `eval`, `sh -c`, `source`; `line`: where the script has it run."""
        if depth >= _DEEPEST:
            world.work.note(f"scripts run or source each other more than {_DEEPEST} deep")
            return [world]
        world.work.spend(len(text) // 20)
        before, self.line = self.line, self.line or line
        tree = parse(_PLACEHOLDER.sub(MANY, text))
        if tree.has_error and self.line is not None:
            world.work.torn.add(self.line)
        after = self.statements(tree.children, [world], Place(None, True, depth + 1))
        self.line = before
        return after

    def captured(self, text: str, world: World) -> str:
        """What a command substitution prints; its commands count as the script's."""
        inner = world.copy()
        inner.output, inner.options = "", inner.options - {"errexit"}
        stripped = text.strip()
        if stripped.startswith("<") and not stripped.startswith("<("):
            return UNKNOWN
        worlds = self.nested(text, inner, 1, self.line)
        outputs = {each.output for each in worlds}
        # what prints a value makes no difference between two ways, a training does
        started = worlds[0].invocations[len(world.invocations) :]
        world.invocations += tuple(one for one in started if any(MENTION.search(word) for word in one.argv))
        world.status = worlds[0].status if len(worlds) == 1 else None
        output = outputs.pop() if len(outputs) == 1 else None
        return UNKNOWN if output is None else output.rstrip("\n")
