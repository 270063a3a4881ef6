"""How long a call takes on a device, and how much memory it needs.

A GPU is timed with events in the stream. Before each call the whole L2 cache is overwritten, so that every operand
comes from memory, as often as it takes for the host to get ahead and queue the call meanwhile: the time
between the events is the device's and not that of launching. All subjects of a case take turns, round by round:
what the device's clock and temperature do, they do to all. Clocks are never touched. The median counts; the spread is
that of the quartiles. On a CPU it is the wall clock, and nothing is flushed.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from quantctl.bench.machine import Setting
from quantctl.bench.result import Failure, Measured, Outcome, Spread
from quantctl.errors import QuantctlError


@dataclass(frozen=True)
class Work:
    """A call to time: `run(*prepare())`, of which only `run` counts (the backward, after a forward)."""

    run: Callable[..., Any]
    prepare: Callable[[], tuple[Any, ...]] = tuple


class Stopwatch(Protocol):
    def times(self, work: Work, calls: int) -> list[float]:
        """Milliseconds of each of so many calls."""

    def peak(self, work: Work) -> int | None:
        """Bytes that one call needs."""


class CpuStopwatch:
    def times(self, work: Work, calls: int) -> list[float]:
        samples = []
        for _ in range(calls):
            given = work.prepare()
            start = time.perf_counter()
            work.run(*given)
            samples.append((time.perf_counter() - start) * 1e3)
        return samples

    def peak(self, work: Work) -> int | None:
        """By what the process's largest resident size exceeds that before the call; None where Linux does not say."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        try:
            if trim is not None:
                trim(0)  # or what earlier calls freed would serve this one unseen
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the largest size is the present one from here on
            work.run(*work.prepare())
            return max(_resident("VmHWM") - before, 0)
        except OSError:
            return None


def _resident(field: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def flushes(host_seconds: float, flush_seconds: float) -> int:
    """How often to overwrite the cache, so that queueing a call that takes the host so long ends before its turn.

    Twice the host's time, and at most 64: a host that waits because the queue is full is slow for that reason.
    """
    return min(max(2, math.ceil(2 * host_seconds / max(flush_seconds, 1e-6))), 64)


class CudaStopwatch:
    """Times on the current stream of one device."""

    FLUSH_BYTES = 256 * 2**20
    """More than any L2 cache (H200 50 MB, B200 126 MB)."""
    WARM_UP = 2000
    """Flushes, about 0.15 s on an H200, in which an idle device's clock rises."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.scratch = torch.empty(self.FLUSH_BYTES, dtype=torch.int8, device=device)
        for _ in range(self.WARM_UP):
            self.scratch.zero_()
        pairs = [self._enclosed(self.scratch.zero_)[1:] for _ in range(10)]
        torch.cuda.synchronize(device)
        self.flush_seconds = min(start.elapsed_time(end) for start, end in pairs) * 1e-3

    @staticmethod
    def _enclosed(run: Callable[[], Any]) -> tuple[float, torch.cuda.Event, torch.cuda.Event]:
        """Queue `run` between two events: seconds of the host, and the events."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        before = time.perf_counter()
        run()
        host = time.perf_counter() - before
        end.record()
        return host, start, end

    def times(self, work: Work, calls: int) -> list[float]:
        pairs = []
        host = 1e-3  # a guess for the first call
        for _ in range(calls):
            given = work.prepare()
            for _ in range(flushes(host, self.flush_seconds)):
                self.scratch.zero_()
            host, start, end = self._enclosed(partial(work.run, *given))
            del given
            pairs.append((start, end))
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) for start, end in pairs]

    def peak(self, work: Work) -> int:
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work.run(*work.prepare())
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def stopwatch(device: torch.device) -> Stopwatch:
    return CudaStopwatch(device) if device.type == "cuda" else CpuStopwatch()


@dataclass(frozen=True)
class Effort:
    """How often a call is repeated."""

    rounds: int
    calls: int
    """A round, at most; a call slower than `milliseconds` gets fewer, but one."""
    milliseconds: float
    """A round of one subject, about."""
    warm_up: int
    """Calls before the first round: compilation, autotuning, the allocator's first blocks."""

    def calls_for(self, estimate: float) -> int:
        return max(1, min(self.calls, int(self.milliseconds / max(estimate, 1e-3))))


EFFORTS = {
    # (on a GPU, quick)
    (True, False): Effort(rounds=10, calls=20, milliseconds=200, warm_up=5),
    (True, True): Effort(rounds=3, calls=10, milliseconds=100, warm_up=3),
    (False, False): Effort(rounds=5, calls=5, milliseconds=200, warm_up=1),
    (False, True): Effort(rounds=2, calls=1, milliseconds=50, warm_up=1),
}


def effort(setting: Setting) -> Effort:
    return EFFORTS[setting.full, setting.quick]


_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""How the CPU's allocator, CUDA and its libraries say it, in errors of no kind of their own."""


def failure_of(error: Exception) -> Failure:
    """The reason in one line; the error itself keeps tensors alive and must not be kept."""
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, QuantctlError):
        return Failure(error.message, excused=True)
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in line for sign in _NO_MEMORY):
        return Failure(f"out of memory: {line}", excused=True)
    return Failure(f"{type(error).__name__}: {line}")


def free_memory() -> None:
    """Give back what a failed or finished case left behind."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # a device that failed says so again, here too
            torch.cuda.empty_cache()


def _attempt(step: Callable[[], None]) -> Failure | None:
    try:
        step()
        return None
    except Exception as error:
        failure = failure_of(error)
    # only here is the traceback gone, and with it the tensors of its frames
    free_memory()
    return failure


class _Turns:
    """One work's part in a measurement."""

    def __init__(self, work: Work, watch: Stopwatch, effort: Effort) -> None:
        self.work, self.watch, self.effort = work, watch, effort
        self.samples: list[float] = []
        self.failure: Failure | None = None

    def warm_up(self) -> None:
        self.watch.times(self.work, self.effort.warm_up)
        self.peak = self.watch.peak(self.work)
        self.calls = self.effort.calls_for(min(self.watch.times(self.work, 2)))

    def round(self) -> None:
        self.samples += self.watch.times(self.work, self.calls)

    def attempt(self, step: Callable[[], None]) -> None:
        self.failure = self.failure or _attempt(step)

    @property
    def outcome(self) -> Outcome:
        return self.failure or Measured(Spread.of(self.samples), self.peak)


def measure(
    works: Mapping[str, Work], watch: Stopwatch, effort: Effort, say: Callable[[str], None] = lambda _: None
) -> dict[str, Outcome]:
    """Time all works in turns. One that raises is out, with its reason, and does not stop the others.

    say: told the name of a work when its warm-up begins.
    """
    turns = {name: _Turns(work, watch, effort) for name, work in works.items()}
    for name, turn in turns.items():
        say(name)
        turn.attempt(turn.warm_up)
    for _ in range(effort.rounds):
        for turn in turns.values():
            if turn.failure is None:
                turn.attempt(turn.round)
    return {name: turn.outcome for name, turn in turns.items()}
