"""Reading Megatron's training log, a line at a time: it may be of any length, and hold anything between."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from quantctl.outside.numbers import DIGITS
from quantctl.outside.records import open_regular
from quantctl.runs.attempts import Follower, Source, joined

PREFIX = r"(?:(?: *(?:\[[^\]\n]*\](?:<\w+>)?:?|[\w.-]+:|\d[\d:.,TZ+/-]{7,})(?=[ \[])){1,4} ?)?"
"""What launchers put before a line: `[rank0]: `, `[default0]:`, `[1,0]<stdout>:`, `0: `, `node01: `, a date or time."""

NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"

# found by its first word, which no regular expression beginning with \b is
_POINT = re.compile(rf"iteration(?<!\witeration)\s+({DIGITS})/\s*({DIGITS}) \|")
LOSS, TIME, BATCH = "lm loss", "elapsed time per iteration (ms)", "global batch size"
SKIPPED, NOT_FINITE = "number of skipped iterations", "number of nan iterations"
_NAMES = "|".join(map(re.escape, (LOSS, TIME, BATCH, SKIPPED, NOT_FINITE)))
# what stands behind the last bar was cut, or is another rank's
_FIELD = re.compile(rf"\|\s*({_NAMES}):\s+({NUMBER}|nan|inf)\s(?=\|)")
_OF_NODE = re.compile(r"log-node([0-9]{1,9})\.txt")
_LARGEST = 8 * 2**30
"""Bytes of a log; one of a million iterations has 0.3 GB."""
_LONGEST_LINE = 2**14
"""Characters; what is longer is taken for several lines."""
FLOAT32 = 3.4028234663852886e38
"""The largest number of the type that Megatron sums losses in."""


class Point(NamedTuple):
    """One log line."""

    iteration: int
    total: int
    """Iterations the run is meant to have."""
    fields: dict[str, float]
    """What the line reports of the above, under Megatron's names."""

    @property
    def loss(self) -> float:
        """nats a token, averaged over the steps of the log interval that were taken.

        NaN where Megatron leaves it out: it diverged, or no step was taken (from 0.17.1 on, that is written as 0).
        """
        return self.fields.get(LOSS) or (math.nan if self._stood_still else self.fields.get(LOSS, math.nan))

    @property
    def _stood_still(self) -> bool:
        return not self.fields.get(LOSS) and self.fields.get(SKIPPED, 0) > 0

    @property
    def is_skipped(self) -> bool:
        """Whether the loss scaler of fp16 skipped all steps of the log interval: there is no loss, and no harm done."""
        return self._stood_still and not self.fields.get(NOT_FINITE)

    @property
    def is_diverged(self) -> bool:
        """Whether a step had no finite loss; none that float32 does not hold is one."""
        if self.fields.get(NOT_FINITE, 0) > 0:
            return True
        return not abs(self.loss) <= FLOAT32 and not self.is_skipped

    @property
    def milliseconds(self) -> float:
        return self.fields.get(TIME, math.nan)


def parse_line(line: str) -> Point | None:
    """The point a line reports; None for any other line. Linear in the line's length."""
    found = _POINT.search(line)
    if found is None:
        return None
    fields = {name: float(value) for name, value in _FIELD.findall(line, found.end() - 1)}
    return Point(int(found[1]), int(found[2]), fields)


def log_files(run_dir: Path) -> list[Path]:
    """The logs of a run directory, node by node: log.txt, log-node1.txt, log-node2.txt, ...

    The last rank writes iterations and validations, so those of a run on several nodes lie in one of the later files.
    """
    numbered = {int(found[1]): path for path in run_dir.glob("*") if (found := _OF_NODE.fullmatch(path.name))}
    paths = [run_dir / "log.txt", *(numbered[node] for node in sorted(numbered))]
    return [path for path in paths if os.path.lexists(path)]


def lines(path: Path) -> Iterator[str]:
    """The lines of a log without their ends, one at a time; a long one in pieces.

    Raises BadRecord for what is no regular file.
    """
    with io.TextIOWrapper(open_regular(path, _LARGEST), "utf-8", "replace") as file:
        while line := file.readline(_LONGEST_LINE):
            yield line.rstrip("\n")


def points(paths: Iterable[Path]) -> Iterator[Point]:
    """The points of logs in the order they were written: a resumed run repeats iterations."""
    for path in paths:
        for line in lines(path):
            if "iteration" in line and (point := parse_line(line)) is not None:
                yield point


def latest(points: Iterable[Point]) -> list[Point]:
    """The points by iteration; of one that a resumed run repeats, the last one counts."""
    return sorted({point.iteration: point for point in points}.values(), key=lambda point: point.iteration)


class Reader(Protocol):
    """What is told lines."""

    def take(self, line: str) -> None: ...


Told = TypeVar("Told", bound=Reader)


def follow(lines: Iterable[str], new: Callable[[], Told]) -> tuple[Told, Follower]:
    """Tell a reader, made by `new`, the lines that count: from where the last attempt began that began at the first
    iteration, all of them if none did. With it the one who says where that was.
    """
    follower = Follower()
    reader = new()
    # told what an attempt says before its first iteration, in case that it begins anew; None behind that
    beginning: Told | None = reader
    for line in lines:
        if follower.divides(line):
            beginning = new()
        elif "iteration" in line and (found := _POINT.search(line)):
            if follower.begins(int(found[1])):
                reader = new() if beginning is None else beginning
            beginning = None
        reader.take(line)
        if beginning is not None and beginning is not reader:
            beginning.take(line)
    return reader, follower


def sources(run_dir: Path) -> list[Source]:
    """The logs of a run directory, node by node."""
    return [partial(lines, path) for path in log_files(run_dir)]


class _Points:
    def __init__(self) -> None:
        self.found: list[Point] = []

    def take(self, line: str) -> None:
        if "iteration" in line and (point := parse_line(line)) is not None:
            self.found.append(point)


def read_log(run_dir: Path) -> list[Point]:
    """The points of the attempt that counts by iteration, each once; none where there is no log."""
    reader, _ = follow(joined(sources(run_dir)), _Points)
    return latest(reader.found)
