"""Megatron's flags as a script writes them: an ordered list of lines, a flag with its values each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


class Flags:
    """The flags of one command, in their order."""

    def __init__(self, words: Iterable[str]) -> None:
        self.lines: list[list[str]] = []
        for word in words:
            if word.startswith("--") or not self.lines:
                self.lines.append([word])
            else:
                self.lines[-1].append(word)

    def words(self) -> Iterator[str]:
        return (word for line in self.lines for word in line)

    def _at(self, flag: str) -> int | None:
        return next((at for at, line in enumerate(self.lines) if line[0] == flag), None)

    def value(self, flag: str) -> str | None:
        """Its first value; None without the flag, or without one."""
        at = self._at(flag)
        return None if at is None or len(self.lines[at]) < 2 else self.lines[at][1]

    def put(self, flag: str, value: str) -> None:
        """Give a flag another value, where it stands."""
        at = self._at(flag)
        if at is None:
            self.lines.append([flag, value])
        else:
            self.lines[at] = [flag, value]

    def drop(self, *flags: str) -> None:
        self.lines = [line for line in self.lines if line[0] not in flags]

    def before(self, anchor: str, *lines: Sequence[str]) -> None:
        """Lines in front of a flag; at the end where it is not there."""
        at = self._at(anchor)
        self.lines[len(self.lines) if at is None else at : at] = [list(line) for line in lines]

    def behind(self, anchor: str, *lines: Sequence[str]) -> None:
        """Lines behind a flag; at the end where it is not there."""
        at = self._at(anchor)
        place = len(self.lines) if at is None else at + 1
        self.lines[place:place] = [list(line) for line in lines]


def among(words: Sequence[str], *flags: str) -> bool:
    """Whether one of these flags is among the words, as `--flag value` or as `--flag=value`."""
    return any(word == flag or word.startswith(f"{flag}=") for word in words for flag in flags)


def last(words: Sequence[str], flag: str) -> str | None:
    """The value that counts; None without the flag."""
    found = None
    for at, word in enumerate(words):
        if word == flag and at + 1 < len(words):
            found = words[at + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found
