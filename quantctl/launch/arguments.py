"""What a script was called with: five arguments that are also variables, and Megatron's flags behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantctl.errors import QuantctlError
from quantctl.launch.settings import POSITIONAL, shown


@dataclass(frozen=True)
class Called:
    """A script's command line, with the environment under it."""

    settings: Mapping[str, str]
    """The environment's variables; the arguments in place of those of their names."""
    trailing: tuple[str, ...]
    """Megatron's flags of the user, which win over the script's."""

    def get(self, name: str, default: str = "") -> str:
        """A setting; the default where it is not set or empty."""
        return self.settings.get(name) or default


def read(words: Sequence[str], environment: Mapping[str, str]) -> Called:
    """Up to five arguments, `--`, flags; an argument wins over its variable unless it is empty.

    Raises QuantctlError for a flag among the five.
    """
    given: dict[str, str] = {}
    rest = list(words)
    for place, name in enumerate(POSITIONAL, 1):
        if not rest or rest[0] == "--":
            break
        if rest[0].startswith("-"):
            raise QuantctlError(
                f"argument {place} is the flag {shown(rest[0])}",
                "Megatron flags come after the five arguments or after --",
            )
        if value := rest.pop(0):
            given[name] = value
    return Called({**environment, **given}, tuple(rest[1:] if rest[:1] == ["--"] else rest))


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """FLAGS -- WORDS: the script's own flags, and what it was called with."""
    at = list(words).index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])
