"""Several nodes of one run in one run directory, and a run that is asked to stop."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.runs import descent, process, proof

from .conftest import read

SITES = dict.fromkeys(("linear", "lm_head", "qk", "pv"), "none")
FILES = {"layers.py": "aa"}
REPORTS = {
    "all is well": ([{"node": 1, "exit_status": 0, "files": FILES}], []),
    "one is silent": ([], ["node 1 of 2 did not report its end"]),
    "one failed": ([{"node": 1, "exit_status": 3, "files": FILES}], ["node 1 ended with exit status 3"]),
    "one ran another tree": (
        [{"node": 1, "exit_status": 0, "files": {"layers.py": "bb"}}],
        ["node 1 ran another Megatron tree than node 0: give all of them the same one"],
    ),
}


@pytest.mark.parametrize(("reports", "problems"), REPORTS.values(), ids=REPORTS)
def test_what_the_other_nodes_report_is_part_of_the_proof(tmp_path, reports, problems):
    proof.clear(tmp_path)
    (tmp_path / "proof" / "import-0-1-0.json").write_text('{"rank": 0, "pid": 1, "node": 0}')
    assert proof.node_problems(reports, 2, FILES) == problems
    verdict = proof.merge(tmp_path, SITES, beside=problems)
    assert (verdict.ok, verdict.problems) == (not problems, problems)


def test_two_nodes_share_a_run_directory(megatron_tree, tmp_path):
    """Node 1 comes when node 0 has begun, as torchrun sees to it, and ends first."""
    wait = "import megatron.core, os, sys; print('rank', os.environ['RANK'], flush=True); sys.stdin.read()"

    def start(rank: int) -> subprocess.Popen:
        place = ["--nodes", "2", "--node-rank", str(rank), "--run-dir", str(tmp_path)]
        command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1")), "exec"]
        return subprocess.Popen(
            [*command, "--mode", "bf16", *place, "--", "env", f"RANK={rank}", sys.executable, "-c", wait],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start(0)
    assert first.stdout.readline() == "rank 0\n"
    second = start(1)
    assert second.communicate()[0] == "rank 1\n"
    assert second.returncode == 0
    assert first.communicate()[0] == ""
    assert first.returncode == 0
    assert read(tmp_path / "proof.json")["ranks"] == [0, 1]
    (attempt,) = read(tmp_path / "manifest.json")["attempts"]
    assert attempt["finished"]
    assert "rank 1\n" in (tmp_path / "log-node1.txt").read_text()


TRAINS = """
import megatron.core, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["SIGTERM", "a file"])
def test_stopping_reaches_the_trainer_and_not_what_started_it(megatron_tree, tmp_path, how):
    """torchrun would kill a trainer 30 seconds after a SIGTERM of its own; the shell stands for it here."""
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1")), "exec"]
    starter = ["sh", "-c", '"$@"; echo the starter lives', "sh", sys.executable, "-c", TRAINS]
    run = subprocess.Popen(
        [*command, "--mode", "bf16", "--run-dir", str(tmp_path), "--", *starter], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "ready\n"
    if how == "SIGTERM":
        run.send_signal(signal.SIGTERM)
    else:
        (tmp_path / "stop").touch()
    assert run.communicate()[0] == "the starter lives\n"
    assert run.returncode == 0
    assert "saved" in (tmp_path / "log.txt").read_text()
    (attempt,) = read(tmp_path / "manifest.json")["attempts"]
    assert (attempt["exit_status"], attempt["stopped_early"], attempt["finished"]) == (0, True, False)
    assert not (tmp_path / "stop").exists()


def test_a_file_system_that_is_away_does_not_end_a_run(monkeypatch, tmp_path):
    def away(path: Path, **_: object) -> bool:
        raise OSError(errno.ESTALE, "stale file handle", str(path))

    command = [sys.executable, "-c", f"import time; time.sleep({process._LOOK * 1.5})"]
    monkeypatch.setattr(Path, "exists", away)
    assert process.run(command, os.environ, tmp_path, "log.txt", 0) == process.Ending(0, False)


RECORDS = {
    "of another process": '{"pid": PID, "start": 1, "node": 0}',
    "of an earlier version": '{"pid": PID, "node": 0}',
    "of another node": '{"pid": PID, "start": START, "node": 1}',
    "rubbish": "[[[",
    "no record": "[]",
    "no number": '{"pid": "x", "start": null, "node": 0}',
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_trainers_that_cannot_be_reached_leave_the_command(tmp_path, record):
    """A stranger whose number a record names is left alone, also where it descends from us."""
    proof.clear(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as stranger, subprocess.Popen(["sleep", "60"]) as child:
        start = Path(f"/proc/{stranger.pid}/stat").read_text().split()[21]
        text = record.replace("PID", str(stranger.pid)).replace("START", start)
        (tmp_path / "proof" / "import-0-1-0.json").write_text(text)
        stopping = process._Stopping(tmp_path, 0)
        stopping.started(child)
        stopping.ask()
        assert child.wait(timeout=30) == -signal.SIGTERM
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_is_no_descendant_is_a_stranger(tmp_path):
    """Its parent is gone, so it is nobody's here: number and start alone reach nothing."""
    proof.clear(tmp_path)
    script = "sleep 60 >/dev/null & echo $!"
    number = int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True).stdout)
    try:
        start = int(Path(f"/proc/{number}/stat").read_text().split()[21])
        record = {"pid": number, "start": start, "node": 0}
        (tmp_path / "proof" / "import-0-1-0.json").write_text(json.dumps(record))
        assert process._Stopping(tmp_path, 0)._signal_trainers(os.getpid()) == []
        assert descent.matches(number, record)
        assert Path(f"/proc/{number}").exists()
    finally:
        os.kill(number, signal.SIGKILL)


WISHES = {
    # who forgets, whether a file is there after: launch, and what it starts with the file made meanwhile
    "launch, then exec": ([(0, True), (0, False)], True),
    "launch, launch by srun, exec": ([(0, True), (0, True), (0, False)], True),
    "exec alone, twice": ([(0, False), (0, False)], False),
    "another node": ([(1, False)], True),
}


@pytest.mark.parametrize(("calls", "left"), WISHES.values(), ids=WISHES)
def test_a_stop_file_is_forgotten_once(monkeypatch, tmp_path, calls, left):
    monkeypatch.setenv(process._FORGOTTEN, "elsewhere")
    for node, starts_another in calls:
        (tmp_path / process.STOP).touch()
        process.forget_stop(tmp_path, node, starts_another)
    assert (tmp_path / process.STOP).exists() == left
    assert process._FORGOTTEN not in os.environ
