"""Reading a shell script without running it: every way through it, and the commands it would start on each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quantctl.lint.reader import Place, Reader, parse
from quantctl.lint.world import MANY, UNKNOWN, Work, World

if TYPE_CHECKING:
    from tree_sitter import Node


_LOOKS = re.compile(r"\$\?|\$\{\?\}|PIPESTATUS|\bwait\s+(-n|[\"$])")
_TRAP, _ERR = re.compile(r"\btrap\b"), re.compile(r"\bERR\b")


@dataclass
class Script:
    """A script and the ways through it."""

    path: Path | None
    text: str
    worlds: list[World] = field(default_factory=list)
    unreadable: tuple[int, ...] = ()
    """Lines that the grammar could not read; nothing is said about commands in them."""
    work: Work = field(default_factory=Work)
    """What reading it took."""

    @property
    def cut(self) -> tuple[str, ...]:
        """Why the script was not followed to its end, in sentences; empty where it was."""
        return tuple(self.work.cut)

    @cached_property
    def last_look(self) -> int:
        """The last line that looks at an exit status; 0 if none does."""
        return max((n for n, line in enumerate(self.text.splitlines(), 1) if _LOOKS.search(line)), default=0)

    @cached_property
    def traps(self) -> bool:
        """Whether a failure is trapped anywhere."""
        return any(_ERR.search(line, found.end()) for line in self.text.splitlines() if (found := _TRAP.search(line)))


def read(text: str, path: Path | None = None) -> Script:
    """Read a script. Never raises for what it holds: what cannot be read is unknown."""
    clean = text.replace(MANY, "?").replace(UNKNOWN, "?").replace("\0", "?").replace("\r\n", "\n")
    script = Script(path, clean)
    tree = parse(clean)
    reader = Reader(path)
    options = frozenset({"errexit"}) if re.match(r"#!\s*\S*sh\s+-\w*e", clean) else frozenset()
    script.worlds = reader.statements(tree.children, [World(options=options, work=script.work)], Place())
    script.unreadable = tuple(sorted(set(_errors(tree))))
    return script


def _errors(node: Node) -> list[int]:
    stack, found = [node], []
    while stack:
        here = stack.pop()
        if here.type == "ERROR" or here.is_missing:
            found.append(here.start_point[0] + 1)
        elif here.has_error:
            stack += here.children
    return found
