"""Processes side by side: how many, what a failure does, what an interruption leaves."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantctl.sweep.runner import Job, Slot, State, run


@dataclass(frozen=True)
class Shell:
    """A task that is a line of shell."""

    line: str
    run_dir: Path
    mode: str = "bf16"
    model: str = "llama32-1b"

    @property
    def experiment(self) -> dict[str, str]:
        return {"mode": self.mode, "model": self.model}

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def command(self) -> list[str]:
        return ["bash", "-c", self.line]

    def variables(self, **more: str) -> dict[str, str]:
        return {**os.environ, **more}

    def is_finished(self) -> bool:
        return (self.run_dir / "finished").exists()


def make(tmp_path, *lines):
    return [Shell(line, tmp_path / str(number)) for number, line in enumerate(lines)]


def test_a_failed_run_does_not_stop_the_others(tmp_path):
    jobs = run(make(tmp_path, "exit 0", "echo no memory; exit 7", "exit 0"), [Slot()], lambda jobs: None)
    assert [job.state for job in jobs] == [State.FINISHED, State.FAILED, State.FINISHED]
    assert jobs[1].last_words() == "no memory"


def test_as_many_at_a_time_as_there_are_slots(tmp_path):
    seen = []

    def watch(jobs):
        seen.append(sum(job.state is State.RUNNING for job in jobs))

    run(make(tmp_path, *["sleep 0.5"] * 5), [Slot(), Slot()], watch)
    assert max(seen) == 2


def test_each_slot_has_its_devices(tmp_path):
    slots = [Slot({"CUDA_VISIBLE_DEVICES": "0,1"}), Slot({"CUDA_VISIBLE_DEVICES": "2,3"})]
    jobs = run(make(tmp_path, *["sleep 0.5; echo $CUDA_VISIBLE_DEVICES"] * 4), slots, lambda jobs: None)
    assert sorted(job.last_words() for job in jobs) == ["0,1", "0,1", "2,3", "2,3"]


def test_what_is_finished_does_not_run_again(tmp_path):
    tasks = make(tmp_path, "touch ran", "exit 1")
    tasks[0].run_dir.mkdir()
    (tasks[0].run_dir / "finished").touch()
    jobs = run(tasks, [Slot()], lambda jobs: None)
    assert [job.state for job in jobs] == [State.FOUND, State.FAILED]
    assert not Path("ran").exists()


def test_interrupted_it_ends_what_runs_and_all_below_it(tmp_path):
    tasks = make(tmp_path, "sleep 97.5 & echo $! > $PIDFILE.new; mv $PIDFILE.new $PIDFILE; wait", "exit 0")
    slots = [Slot({"PIDFILE": str(tmp_path / "pid")})]
    noted = []

    def interrupt(jobs):
        noted[:] = jobs
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tasks, slots, interrupt)
    assert [job.state for job in noted] == [State.STOPPED, State.WAITING]
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_a_started_run_says_what_it_is_one_of(tmp_path):
    tasks = make(tmp_path, "test -s $SAID && exit 0", "exit 0")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "finished").touch()
    jobs = run(tasks, [Slot({"SAID": str(tmp_path / "0" / "sweep.json")})], lambda jobs: None)
    assert [job.state for job in jobs] == [State.FINISHED, State.FOUND]
    assert json.loads((tmp_path / "0" / "sweep.json").read_text()) == {"mode": "bf16", "model": "llama32-1b"}
    assert not (tmp_path / "1" / "sweep.json").exists()


def test_iterations_that_another_node_logged(tmp_path):
    (tmp_path / "log.txt").write_text("using world size: 16\n")
    (tmp_path / "log-node1.txt").write_text(" [2026-11-21 10:00:00] iteration        3/      20 | lm loss: 5.0E+00 |\n")
    (point,) = Job(Shell("", tmp_path)).points
    assert (point.iteration, point.loss) == (3, 5.0)
