"""Which part of a log is judged: that of the last attempt that began at the first iteration, and what went on from it.

`quantctl exec` writes a mark before each attempt. Where there is none (logs of Megatron-LM's own runs, run directories
of earlier versions) a trainer's own words divide the attempts: what rank 0 says before it trains, and an iteration 1,
which nobody logs who goes on from a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

_MARK = re.compile(r"-{4} quantctl: an attempt begins, \S+ -{4}")
_RANDOM = "will not load any checkpoints and will start "
_STARTS = (_RANDOM, "loading checkpoint from ", "- arguments -")
"""What rank 0 says before it trains: Megatron-LM its arguments, always; the embedded trainer what --load found."""
_NO_LOAD = re.compile(r"  load \.{3,} None\s*$")
"""Among Megatron-LM's arguments: there is no checkpoint that it could go on from, and it says no more about it."""


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

    @property
    def is_whole(self) -> bool:
        """Marks say that one attempt wrote all iterations of the judged part, from the first on."""
        return self.is_marked and self.anew and self.attempts == 1

    def divides(self, line: str) -> bool:
        """Whether an attempt begins with this line, so that what follows it may turn out to be all that counts."""
        marked = line.startswith("---- quantctl") and _MARK.fullmatch(line.rstrip()) is not None
        self.is_marked = self.is_marked or marked
        found = next((text for text in _STARTS if text in line), "")
        if not marked and not found:
            self._random = self._random or ("  load ..." in line and _NO_LOAD.search(line) is not None)
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


Source = Callable[[], Iterable[str]]
"""The lines of one node's log, from the first on, each time it is called."""


def _parts(source: Source) -> tuple[int, bool]:
    """How many attempts a log tells apart, and whether the first of them has no mark."""
    marks, before = 0, False
    for line in source():
        if _MARK.fullmatch(line.rstrip()):
            marks += 1
        elif not marks:
            before = True
    return marks + before, before


def _numbered(source: Source, number: int) -> Iterator[tuple[int, str]]:
    """The lines with the number of their attempt; that of what stands before the first mark is given."""
    for line in source():
        if _MARK.fullmatch(line.rstrip()):
            number += 1
        else:
            yield number, line


def joined(sources: Sequence[Source]) -> Iterator[str]:
    """The logs of the nodes of one run as one, attempt by attempt if all nodes took part in each.

    Else the order of their lines is not known, and no mark says that it were.
    """
    if len(sources) < 2:
        yield from chain.from_iterable(source() for source in sources)
        return
    found = [_parts(source) for source in sources]
    counts = {count for count, _ in found}
    if len(counts) > 1 or any(count == before for count, before in found):
        yield from (line for source in sources for line in source() if not _MARK.fullmatch(line.rstrip()))
        return
    nodes = [_numbered(source, 0 if before else -1) for source, (_, before) in zip(sources, found, strict=True)]
    ahead = [next(lines, None) for lines in nodes]
    for number in range(counts.pop()):
        yield mark("-")
        for node, lines in enumerate(nodes):
            while (line := ahead[node]) is not None and line[0] == number:
                yield line[1]
                ahead[node] = next(lines, None)
