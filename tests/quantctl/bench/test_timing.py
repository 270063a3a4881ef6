"""Turns, repeats and failures, on a stopwatch that says how long a call takes; the real ones are only asked to run."""

from __future__ import annotations

import time

import pytest
import torch

from quantctl.bench.result import Failure, Measured
from quantctl.bench.timing import CpuStopwatch, Effort, Work, failure_of, flushes, measure
from quantctl.errors import QuantctlError

EFFORT = Effort(rounds=3, calls=4, milliseconds=10.0, warm_up=2)


class ScriptedStopwatch:
    """Runs the work, and takes its result for the milliseconds."""

    def __init__(self) -> None:
        self.order: list[float] = []

    def times(self, work: Work, calls: int) -> list[float]:
        samples = [work.run(*work.prepare()) for _ in range(calls)]
        self.order += samples[:1]
        return samples

    def peak(self, work: Work) -> int:
        return int(work.run(*work.prepare()) * 100)


@pytest.mark.parametrize(("estimate", "calls"), [(0.0, 4), (2.5, 4), (4.0, 2), (11.0, 1), (1e6, 1)])
def test_slow_calls_are_repeated_less(estimate, calls) -> None:
    assert EFFORT.calls_for(estimate) == calls


@pytest.mark.parametrize(("host", "times"), [(0.0, 2), (50e-6, 2), (200e-6, 7), (1e-3, 32), (5.0, 64)], ids=str)
def test_the_host_gets_ahead_while_the_cache_is_overwritten(host, times) -> None:
    """An overwrite of 63 us, that of 256 MiB on an H200."""
    assert flushes(host, 63e-6) == times


def test_subjects_take_turns() -> None:
    watch = ScriptedStopwatch()
    results = measure({"a": Work(lambda: 1.0), "b": Work(lambda: 9.0)}, watch, EFFORT)
    warm_up = [1.0, 1.0, 9.0, 9.0]
    assert watch.order == warm_up + [1.0, 9.0] * EFFORT.rounds
    times = {name: (found.time.median, found.time.repeats, found.peak_bytes) for name, found in results.items()}
    assert times == {"a": (1.0, 12, 100), "b": (9.0, 3, 900)}


def test_what_run_gets_is_prepared_anew_for_each_call() -> None:
    made = iter(range(100))
    seen = []
    work = Work(lambda n, m: seen.append((n, m)), lambda: (next(made), "x"))
    assert len(CpuStopwatch().times(work, 3)) == 3
    assert seen == [(0, "x"), (1, "x"), (2, "x")]


def test_preparation_is_not_timed() -> None:
    """A lower bound: the sleep is in prepare, and a call of nothing that took as long would be a call that has it."""
    (sample,) = CpuStopwatch().times(Work(lambda: None, lambda: time.sleep(0.2) or ()), 1)
    assert sample < 200


@pytest.mark.parametrize("after", [0, 8], ids=["in warm-up", "in a round"])
def test_a_failure_is_a_row_and_stops_nobody_else(after) -> None:
    left = iter([1.0] * after)

    def fails() -> float:
        for value in left:
            return value
        raise ValueError("first line\nsecond line")

    results = measure({"bad": Work(fails), "good": Work(lambda: 5.0)}, ScriptedStopwatch(), EFFORT)
    assert results["bad"] == Failure("ValueError: first line")
    assert isinstance(results["good"], Measured)
    assert list(results) == ["bad", "good"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), Failure("out of memory: CUDA out of memory.", True)),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), None),
        (QuantctlError("not here", "go there"), Failure("not here", True)),
        (RuntimeError("shape"), Failure("RuntimeError: shape", False)),
        (RuntimeError(), Failure("RuntimeError: ", False)),
    ],
    ids=["CUDA memory", "CPU memory", "a library's memory", "a refusal", "a bug", "without words"],
)
def test_reasons(error, failure) -> None:
    assert failure_of(error) == (failure or Failure(f"out of memory: {error}", True))


def test_a_failed_case_leaves_no_tensors_behind() -> None:
    held = []

    class Watched:
        def __del__(self) -> None:
            held.append("gone")

    def fails() -> float:
        kept = Watched()
        raise RuntimeError(str(id(kept)))

    def check() -> float:
        assert held == ["gone"]
        return 1.0

    results = measure({"fails": Work(fails), "next": Work(check)}, ScriptedStopwatch(), EFFORT)
    assert isinstance(results["next"], Measured)


def test_interrupts_go_through() -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({"a": Work(interrupted)}, ScriptedStopwatch(), EFFORT)
