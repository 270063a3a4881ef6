"""Reading Megatron's training log."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"\biteration\s+(\d+)/\s*(\d+) \|(.*)$")
_FIELD = re.compile(r"\s([^|:]+(?:\([^)]*\))?):\s+([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)\s\|")


@dataclass(frozen=True)
class Point:
    """One log line."""

    iteration: int
    total: int
    """Iterations the run is meant to have."""
    fields: dict[str, float]
    """What the line reports, under Megatron's names."""

    @property
    def loss(self) -> float:
        """nats a token, averaged over the log interval; NaN where Megatron leaves it out because it diverged."""
        return self.fields.get("lm loss", math.nan)

    @property
    def milliseconds(self) -> float:
        return self.fields.get("elapsed time per iteration (ms)", math.nan)


def parse_line(line: str) -> Point | None:
    """The point a line reports; None for any other line."""
    found = _LINE.search(line)
    if found is None:
        return None
    iteration, total, rest = found.groups()
    fields = {name.strip(): float(value) for name, value in _FIELD.findall(rest.rstrip() + " ")}
    return Point(int(iteration), int(total), fields)


def parse_points(text: str) -> list[Point]:
    """The points of a log in the order they were written: a resumed run repeats iterations."""
    return [point for point in map(parse_line, text.splitlines()) if point is not None]


def latest(points: Iterable[Point]) -> list[Point]:
    """The points by iteration; of one that a resumed run repeats, the last one counts."""
    return sorted({point.iteration: point for point in points}.values(), key=lambda point: point.iteration)


def read_log(path: Path) -> list[Point]:
    """The points of a log by iteration, each once; none if there is no such file."""
    return latest(parse_points(path.read_text(errors="replace"))) if path.exists() else []
