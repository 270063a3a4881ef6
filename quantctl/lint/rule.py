"""What a rule is, and what it finds: plain data, so that the table can be printed, explained and tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantctl.lint.case import Case


class Severity(Enum):
    """How bad it is. Only an error makes the exit status 1."""

    ERROR = "error"
    """The run stops at once, or trains something else than it says."""
    WARNING = "warning"
    """It may stop, or do what one does not expect."""
    NOTE = "note"
    """Worth knowing."""

    @property
    def verdict(self) -> str:
        """What a parameter with such a finding is called."""
        return "wrong" if self is Severity.ERROR else "note"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True)
class Hit:
    """One place where a rule applies."""

    message: str
    parameters: tuple[str, ...] = ()
    """The flags that it is about, those that are missing too."""
    severity: Severity | None = None
    """Where it is not the rule's own."""
    fix: str | None = None
    """Where there is something more exact to say than the rule's own."""


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    id: str
    family: str
    severity: Severity
    """The worst that it says; a condition that this machine cannot decide is a note or a warning."""
    what: str
    """What is wrong with the command, in one line."""
    why: str
    """What happens then."""
    fix: str
    releases: str
    """Of Megatron-LM, in which it holds."""
    evidence: str
    """How it is known: source lines, or a run."""
    check: Callable[[Case], Iterable[Hit]]
    unseen: bool = False
    """Products that a selector names are computed past it, and the proof cannot notice: exec refuses the command."""


@dataclass(frozen=True)
class Finding:
    """A rule that applies to a command."""

    rule: Rule
    severity: Severity
    message: str
    parameters: tuple[str, ...]
    fix: str
    line: int | None = None
    """In the script."""
    when: tuple[str, ...] = ()
    """The branches that it needs; empty if it holds on every way through the script."""


_LABELS = ("Severity", "Why", "Fix", "Releases", "Evidence")


def described(name: str, family: str, text: str, check: Callable[[Case], Iterable[Hit]], unseen: bool) -> Rule:
    """A rule from its module's docstring: a sentence, then a paragraph behind each label.

    Raises KeyError for a label that is missing.
    """
    first, *paragraphs = (" ".join(part.split()) for part in text.strip().split("\n\n"))
    said = dict(part.split(": ", 1) for part in paragraphs)
    severity, why, fix, releases, evidence = (said[label] for label in _LABELS)
    return Rule(name, family, Severity(severity), first.rstrip("."), why, fix, releases, evidence, check, unseen)
