"""Reading a shell script without running it: every way through it, and the commands it would start on each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quantctl.lint.grammar import errors, parse
from quantctl.lint.reader import Place, Reader
from quantctl.lint.world import MANY, UNKNOWN, Work, World

if TYPE_CHECKING:
    pass


_LOOKS = re.compile(r"\$\?|\$\{\?\}|PIPESTATUS|\bwait\s+(-n|[\"$])")
_MOST_LINES = 5
_TRAP, _ERR = re.compile(r"\btrap\b"), re.compile(r"\bERR\b")


@dataclass
class Script:
    """A script and the ways through it."""

    path: Path | None
    text: str
    worlds: list[World] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    """What reading it took."""

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Lines that the grammar could not read; nothing is said about commands in them."""
        return tuple(sorted(self.work.torn))

    @property
    def torn(self) -> str:
        """The same in a sentence; nothing where it read all."""
        lines = ", ".join(map(str, self.unreadable[:_MOST_LINES]))
        return f"line {lines} cannot be read as bash: what stands there is not judged" if lines else ""

    @property
    def cut(self) -> tuple[str, ...]:
        """What of the script was not read or followed, and why, in sentences; empty where all of it was."""
        return (*self.work.cut, *self.work.unread, *([self.torn] if self.torn else []))

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
    if "\\\t" in clean:
        script.work.note("a tab stands behind a backslash in it, which the grammar takes for the end of a word")
    tree = parse(clean)
    reader = Reader(path)
    script.work.capture = reader.captured
    options = frozenset({"errexit"}) if re.match(r"#!\s*\S*sh\s+-\w*e", clean) else frozenset()
    script.worlds = reader.statements(tree.children, [World(options=options, work=script.work)], Place())
    script.work.torn.update(errors(tree))
    return script


def unread(why: str) -> Work:
    """The work of a text that is not read at all."""
    work = Work()
    work.note(why)
    return work
