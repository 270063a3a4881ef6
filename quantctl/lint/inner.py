"""A shell inside the script: its text is read as more of the script, what it changes stays with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quantctl.lint.world import Invocation, World, known
from quantctl.outside.records import BadRecord, open_regular

if TYPE_CHECKING:
    from quantctl.lint.redirections import Redirections

_LARGEST_SOURCED = 1_000_000


class Reads(Protocol):
    """Who reads the script, as far as its commands want something read."""

    path: Path | None

    def nested(self, text: str, world: World, depth: int, line: int | None = None) -> list[World]:
        """The worlds after another text."""

    def hand_over(self, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World] | None:
        """The worlds after a command that has text run by another shell; None if it is any other command."""


def in_inner_shell(
    reader: Reads, front: tuple[str, ...], text: str, outer: Invocation, world: World, depth: int,
    arguments: tuple[str, ...] | None = None, exported: bool = True,
) -> list[World]:  # fmt: skip
    """Commands of an inner shell count as the script's, at the outer one's place and behind what stands before it."""
    before = len(world.invocations)
    inner = world.copy()
    inner.options, inner.positional, inner.functions, inner.saved = frozenset(), arguments, {}, None
    for name in () if exported is False else [*inner.scalars, *inner.arrays]:
        if name not in inner.exported:
            inner.drop_value(name)
    for name, value in outer.environment.items():
        inner.assign(name, value)
    after = reader.nested(text, inner, depth, outer.line)
    for each in after:
        found = tuple(
            replace(outer, argv=(*front, *one.argv), environment=outer.environment | one.environment)
            for one in each.invocations[before:]
        )
        each.invocations = each.invocations[:before] + found
        each.leave_shell(world)
        each.ended, each.status = "", None
    return after


def script_text(reader: Reads, name: str, world: World) -> str | None:
    """The text of a script that another one names: beside it, or in the folder in use; None if it is not there."""
    if not known(name) or reader.path is None or not name:
        return None
    for base in (reader.path.parent, Path()):
        try:
            file = base / name
            if file.is_file():
                with open_regular(file, _LARGEST_SOURCED) as script:
                    text = script.read(_LARGEST_SOURCED).decode("utf-8", "replace")
                return text.replace("\0", "?").replace("\r\n", "\n")
        except OSError:
            continue
        except BadRecord as error:
            world.work.note(f"it reads {error.reason}")
    return None
