"""What a benchmark leaves: rows of times, rates and ratios, and the document that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

SCHEMA = 1
"""Raised when a field of the document changes its name or meaning; new fields do not raise it."""


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one call, over its repeats."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    repeats: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(median(samples), low, high, len(samples))


@dataclass(frozen=True)
class Measured:
    """What a call took."""

    time: Spread
    peak_bytes: int | None
    """In use at most while it was prepared and run, beyond what was there before: allocated, on a CPU resident."""


@dataclass(frozen=True)
class Failure:
    """Why a case has no time."""

    reason: str
    excused: bool = False
    """The device is too small for the case or cannot compute it: nothing is wrong."""


Outcome = Measured | Failure


EQUAL = "equals reference"
"""The fact that says whether a result has the reference's bits; None where that could not be computed."""
UNITS = {"GB/s": 1e9, "TFLOP/s": 1e12}


@dataclass(frozen=True)
class Ratio:
    """A measured figure over another of the same run (or a published one), and the bound that it is held against."""

    name: str
    """What it is: `of copy bandwidth`, `time of bf16`."""
    value: float
    limit: float | None = None
    """None where nothing was promised, and on every device but a GPU."""
    at_least: bool = False
    """The value must not be below the limit; otherwise it must not be above."""

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One case of one subject."""

    bench: str
    case: str
    """Sizes, as people write them."""
    subject: str
    """What was measured: a format spec, `bf16`, a library."""
    time: Spread | None = None
    rate: float | None = None
    """Bytes moved or operations a second, in `unit`."""
    unit: str | None = None
    """One of UNITS."""
    peak_bytes: int | None = None
    """Memory of the device in use at most, beyond what lay there before the call; of a training step, in all."""
    ratios: tuple[Ratio, ...] = ()
    """The first one is what the picture shows."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else was counted or compared, by name."""
    failure: Failure | None = None
    peer: bool = False
    """Somebody else's: measured for comparison, with nothing promised."""

    @classmethod
    def of(cls, outcome: Outcome, *, amount: float = 0, unit: str | None = None, **rest: Any) -> Row:
        """A row of what `measure` gave; amount: the bytes or operations of one call, whose rate is shown in `unit`."""
        if isinstance(outcome, Failure):
            return cls(**rest | {"failure": outcome, "ratios": ()})
        rate = amount / (outcome.time.median * 1e-3) / UNITS[unit] if unit else None
        return cls(**rest, time=outcome.time, rate=rate, unit=unit, peak_bytes=outcome.peak_bytes)

    @property
    def is_finding(self) -> bool:
        """Our own product failed, or its result was not the reference's."""
        broken = self.failure is not None and not self.failure.excused
        return not self.peer and (broken or self.facts.get(EQUAL) is False)

    def document(self) -> dict[str, Any]:
        """The row for `--json`."""
        time = self.time
        return {
            "bench": self.bench,
            "case": self.case,
            "subject": self.subject,
            "peer": self.peer,
            "milliseconds": time
            and {"median": time.median, "low": time.low, "high": time.high, "repeats": time.repeats},
            "rate": None if self.rate is None else {"value": self.rate, "unit": self.unit},
            "peak_bytes": self.peak_bytes,
            "ratios": [
                {"name": r.name, "value": r.value, "limit": r.limit, "at_least": r.at_least, "met": r.met}
                for r in self.ratios
            ],
            "facts": self.facts,
            "failure": self.failure and {"reason": self.failure.reason, "excused": self.failure.excused},
        }


def document(rows: Iterable[Row], machine: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """The whole of `--json`. machine: machine.describe()."""
    return {"schema": SCHEMA, **machine, "quick": quick, "rows": [row.document() for row in rows]}
