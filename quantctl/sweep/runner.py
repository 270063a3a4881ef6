"""Running tasks side by side on this machine; a run that fails is noted and the others go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from quantctl.disk.files import no_link
from quantctl.runs.runlog import Point, read_log
from quantctl.sweep import record
from quantctl.sweep.plan import Task

OUTPUT = "script.txt"
"""What the script printed, in the run directory."""
_POLL = 0.3
_GRACE = 30.0
"""Seconds that a run has to end after it was told to."""


class State(Enum):
    """Where a run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FOUND = "finished before"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Slot:
    """A place where one run at a time can be: the machine's share of one run."""

    variables: dict[str, str] = field(default_factory=dict)
    """Environment that keeps it apart, such as CUDA_VISIBLE_DEVICES."""


@dataclass
class Job:
    """A task under way."""

    task: Task
    state: State = State.WAITING
    process: subprocess.Popen[bytes] | None = None
    slot: Slot | None = None
    started: float = 0.0
    seconds: float = 0.0
    """Wall time of the script, once it has ended."""

    @property
    def points(self) -> list[Point]:
        return read_log(self.task.run_dir)

    @property
    def is_over(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)

    def start(self, slot: Slot) -> None:
        record.write(self.task.run_dir, self.task.experiment)
        self.slot, self.state, self.started = slot, State.RUNNING, time.monotonic()
        # an earlier attempt's output stays: a run that this one collides with may still be writing it
        with open(self.task.run_dir / OUTPUT, "ab", opener=no_link) as output:
            # a process group of its own: this program says when it is to end
            self.process = subprocess.Popen(
                self.task.command,
                env=self.task.variables(**slot.variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def look(self) -> None:
        """Note the end of the process."""
        if self.state is State.RUNNING and self.process is not None and self.process.poll() is not None:
            self.state = State.FAILED if self.process.returncode else State.FINISHED
            self.seconds = time.monotonic() - self.started

    def last_words(self, lines: int = 12) -> str:
        """The end of what the script printed."""
        with contextlib.suppress(OSError):
            text = (self.task.run_dir / OUTPUT).read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""


def _stop(jobs: Sequence[Job]) -> None:
    running = [job for job in jobs if job.state is State.RUNNING and job.process is not None]
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 5.0)):
        for job in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, number)  # type: ignore[union-attr]
        end = time.monotonic() + patience
        while time.monotonic() < end and any(job.process.poll() is None for job in running):  # type: ignore[union-attr]
            time.sleep(_POLL)
    for job in running:
        job.state = State.STOPPED


def run(tasks: Sequence[Task], slots: Sequence[Slot], watch: Callable[[Sequence[Job]], None]) -> list[Job]:
    """Run the tasks that are not finished yet, one in each slot at a time; `watch` is called a few times a second.

    Interrupted, it ends the runs under way and raises KeyboardInterrupt; what is finished stays, and the next call with
    the same tasks does the rest.
    """
    jobs = [Job(task, State.FOUND if task.is_finished() else State.WAITING) for task in tasks]
    free = list(slots)
    try:
        while True:
            for job in jobs:
                before = job.state
                job.look()
                if job.is_over and before is State.RUNNING and job.slot is not None:
                    free.append(job.slot)
            for job in jobs:
                if free and job.state is State.WAITING:
                    job.start(free.pop(0))
            watch(jobs)
            if all(job.is_over for job in jobs):
                return jobs
            time.sleep(_POLL)
    finally:
        _stop(jobs)
