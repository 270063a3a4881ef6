"""Reading Megatron's training log."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantctl.attempts import joined, judged

PREFIX = r"(?:(?: *(?:\[[^\]\n]*\](?:<\w+>)?:?|[\w.-]+:|\d[\d:.,TZ+/-]{7,})(?=[ \[])){1,4} ?)?"
"""What launchers put before a line: `[rank0]: `, `[default0]:`, `[1,0]<stdout>:`, `0: `, `node01: `, a date or time."""

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

_LINE = re.compile(r"\biteration\s+(\d+)/\s*(\d+) \|(.*)$")
_FIELD = re.compile(rf"\s([^|:]+(?:\([^)]*\))?):\s+({NUMBER}|nan|inf)\s\|")
_OF_NODE = re.compile(r"log-node(\d+)\.txt")


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
        """nats a token, averaged over the steps of the log interval that were taken.

        NaN where Megatron leaves it out: it diverged, or no step was taken (from 0.17.1 on, that is written as 0).
        """
        return math.nan if self._stood_still else self.fields.get("lm loss", math.nan)

    @property
    def _stood_still(self) -> bool:
        return self.fields.get("number of skipped iterations", 0) > 0 and not self.fields.get("lm loss")

    @property
    def is_skipped(self) -> bool:
        """Whether the loss scaler of fp16 skipped all steps of the log interval: there is no loss, and no harm done."""
        return self._stood_still and not self.fields.get("number of nan iterations")

    @property
    def is_diverged(self) -> bool:
        if self.is_skipped:
            return False
        return self.fields.get("number of nan iterations", 0) > 0 or not math.isfinite(self.loss)

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


def log_texts(run_dir: Path) -> list[str]:
    """The logs of a run directory, node by node: log.txt, log-node1.txt, log-node2.txt, ...

    The last rank writes iterations and validations, so those of a run on several nodes lie in one of the later files.
    """
    numbered = {int(found[1]): path for path in run_dir.glob("*") if (found := _OF_NODE.fullmatch(path.name))}
    paths = [run_dir / "log.txt", *(numbered[node] for node in sorted(numbered))]
    return [path.read_text(errors="replace") for path in paths if path.exists()]


def read_log(run_dir: Path) -> list[Point]:
    """The points of the attempt that counts by iteration, each once; none where there is no log."""
    return latest(parse_points(judged(joined(log_texts(run_dir))).text))
