"""Which part of a log is judged: that of the last attempt that began at the first iteration, and what went on from it.

`quantctl exec` writes a mark before each attempt. Where there is none (logs of Megatron-LM's own runs, run directories
of earlier versions) a trainer's own words divide the attempts: what rank 0 says before it trains, and an iteration 1,
which nobody logs who goes on from a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MARK = re.compile(r"-{4} quantctl: an attempt begins, \S+ -{4}")
_RANDOM = "will not load any checkpoints and will start "
_STARTS = (_RANDOM, "loading checkpoint from ", "- arguments -")
"""What rank 0 says before it trains: Megatron-LM its arguments, always; the embedded trainer what --load found."""
_ITERATION = re.compile(r"\biteration\s+(\d{1,18})/\s*\d+ \|")


def mark(time: str) -> str:
    """The line before an attempt's part of a log."""
    return f"---- quantctl: an attempt begins, {time} ----"


@dataclass
class Follower:
    """Told the lines of a log one after the other, it says where the judged part begins."""

    is_marked: bool = False
    """Every attempt since the first mark has its own."""
    attempts: int = 0
    """Attempts that logged iterations, from the judged part's first on."""
    anew: bool = False
    """The judged part begins at the first iteration."""
    _logged: bool = False
    _random: bool = False

    def divides(self, line: str) -> bool:
        """Whether an attempt begins with this line, so that what follows it may turn out to be all that counts."""
        marked = line.startswith("---- quantctl") and _MARK.fullmatch(line.rstrip()) is not None
        self.is_marked = self.is_marked or marked
        if not marked and not (found := next((text for text in _STARTS if text in line), "")):
            return False
        divides = marked or self._logged
        if divides:
            self._logged = self._random = False
        self._random = self._random or (not marked and found == _RANDOM)
        return divides

    def begins(self, iteration: int) -> bool:
        """Whether the attempt that logs this iteration began at the first one; then only it counts from here on.

        A second iteration 1 in an attempt that nothing divides begins another one, at its own line.
        """
        first, self._logged = not self._logged, True
        if iteration == 1 or (first and self._random):
            self.attempts, self.anew = 1, True
            return True
        self.attempts += first
        return False


@dataclass(frozen=True)
class Judged:
    """The part of a log that counts."""

    text: str
    is_marked: bool
    """Marks tell its attempts apart."""
    is_whole: bool
    """Marks say that one attempt wrote all its iterations from the first on."""


def judged(text: str) -> Judged:
    """The part of a log from where the last attempt began that began at the first iteration; all of it if none did."""
    follower = Follower()
    start = divided = at = 0
    since = False
    for line in text.splitlines(keepends=True):
        if follower.divides(line):
            divided, since = at, False
        elif found := _ITERATION.search(line):
            if follower.begins(int(found[1])):
                start = at if since else divided
            since = True
        at += len(line)
    whole = follower.is_marked and follower.anew and follower.attempts == 1
    return Judged(text[start:], follower.is_marked, whole)


def _parts(text: str) -> list[str]:
    """One part a mark; what lies before the first is a part of its own, if it is anything."""
    parts = [[]]  # type: list[list[str]]
    for line in text.splitlines():
        if _MARK.fullmatch(line.rstrip()):
            parts.append([])
        else:
            parts[-1].append(line)
    return ["\n".join(part) for part in parts if part or part is not parts[0]]


def joined(texts: Sequence[str]) -> str:
    """The logs of the nodes of one run as one, attempt by attempt if all nodes took part in each.

    Else the order of their lines is not known, and no mark says that it were.
    """
    if len(texts) < 2:
        return "".join(texts)
    parts = [_parts(text) for text in texts]
    if len({len(part) for part in parts}) > 1 or not all("---- quantctl" in text for text in texts):
        return "\n".join(line for part in parts for line in part)
    return "\n".join(f"{mark('-')}\n" + "\n".join(attempt) for attempt in zip(*parts, strict=True))
