"""Reading Megatron's training log, a line at a time: it may be of any length, and hold anything between."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
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
# what stands behind the last bar was cut, or is another rank's; of these characters, float() takes what NUMBER says
_FIELD = re.compile(rf"\|\s*({_NAMES}):\s+([-+0-9.eE]+|nan|inf)\s(?=\|)")
_NUMBER = re.compile(f"{NUMBER}|nan|inf")
_OF_NODE = re.compile(r"log-node([0-9]{1,9})\.txt")
_LARGEST = 8 * 2**30
"""Bytes of a log; one of a million iterations has 0.3 GB."""
_LONGEST_LINE = 2**14
"""Characters; what is longer is taken for several lines."""
_AT_ONCE = 2**18
"""Characters."""
FLOAT32 = 3.4028234663852886e38
"""The largest number of the type that Megatron sums losses in."""


class Step(IntEnum):
    """What became of the steps of a log interval."""

    TAKEN, SKIPPED, DIVERGED = range(3)


class Point(NamedTuple):
    """One log line."""

    iteration: int
    total: int
    """Iterations the run is meant to have."""
    fields: dict[str, float]
    """What the line reports of the above, under Megatron's names."""

    @property
    def loss_and_step(self) -> tuple[float, Step]:
        """nats a token, averaged over the steps of the log interval that were taken, and what became of them.

        NaN where Megatron leaves it out: it diverged, or no step was taken (from 0.17.1 on, that is written as 0).
        SKIPPED is when the loss scaler of fp16 skipped all of them: there is no loss, and no harm done. DIVERGED is
        when one had no finite loss; none that float32 does not hold is one.
        """
        fields = self.fields
        loss, broken = fields.get(LOSS), fields.get(NOT_FINITE, 0.0)
        if not loss:
            is_skipped = fields.get(SKIPPED, 0.0) > 0
            loss = math.nan if loss is None or is_skipped else loss
            if is_skipped and not broken:
                return loss, Step.SKIPPED
        return loss, Step.DIVERGED if broken > 0 or not abs(loss) <= FLOAT32 else Step.TAKEN

    @property
    def loss(self) -> float:
        return self.loss_and_step[0]

    @property
    def is_skipped(self) -> bool:
        return self.loss_and_step[1] is Step.SKIPPED

    @property
    def is_diverged(self) -> bool:
        return self.loss_and_step[1] is Step.DIVERGED

    @property
    def milliseconds(self) -> float:
        return self.fields.get(TIME, math.nan)


def parse_line(line: str) -> Point | None:
    """The point a line reports; None for any other line. Linear in the line's length."""
    if "iteration" not in line or (found := _POINT.search(line)) is None:
        return None
    pairs = _FIELD.findall(line, found.end() - 1)
    try:
        fields = {name: float(value) for name, value in pairs}
    except ValueError:
        fields = {name: float(value) for name, value in pairs if _NUMBER.fullmatch(value)}
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
        rest = ""
        while text := file.read(_AT_ONCE):
            *whole, rest = (rest + text).split("\n")
            for line in whole:
                yield from (line,) if len(line) <= _LONGEST_LINE else _pieces(line)
            *pieces, rest = _pieces(rest)
            yield from pieces
        if rest:
            yield rest


def _pieces(line: str) -> list[str]:
    return [line[at : at + _LONGEST_LINE] for at in range(0, len(line) or 1, _LONGEST_LINE)]


def points(paths: Iterable[Path]) -> Iterator[Point]:
    """The points of logs in the order they were written: a resumed run repeats iterations."""
    for path in paths:
        for line in lines(path):
            if (point := parse_line(line)) is not None:
                yield point


def latest(points: Iterable[Point]) -> list[Point]:
    """The points by iteration; of one that a resumed run repeats, the last one counts."""
    return sorted({point.iteration: point for point in points}.values(), key=lambda point: point.iteration)


class Reader(Protocol):
    """What is told lines, each with the point that it reports."""

    def take(self, line: str, point: Point | None) -> None: ...


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
        point = parse_line(line)
        if point is not None:
            if follower.begins(point.iteration):
                reader = new() if beginning is None else beginning
            beginning = None
        elif follower.divides(line):
            beginning = new()
        reader.take(line, point)
        if beginning is not None and beginning is not reader:
            beginning.take(line, point)
    return reader, follower


def sources(run_dir: Path) -> list[Source]:
    """The logs of a run directory, node by node."""
    return [partial(lines, path) for path in log_files(run_dir)]


class _Points:
    def __init__(self) -> None:
        self.found: list[Point] = []

    def take(self, line: str, point: Point | None) -> None:
        if point is not None:
            self.found.append(point)


def read_log(run_dir: Path) -> list[Point]:
    """The points of the attempt that counts by iteration, each once; none where there is no log."""
    reader, _ = follow(joined(sources(run_dir)), _Points)
    return latest(reader.found)
