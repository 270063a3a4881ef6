"""Hit counts: what is counted under which name, and the file that a process leaves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from warm_python import python

# counts 3 + 1 calls; {} is filled with what the process does then
PROGRAM = """
import os, sys, time, torch
from quantctl.kernels.measure import hits
from quantctl.kernels.linear import quantized_linear
x, w = torch.ones(4, 32, requires_grad=True), torch.ones(8, 32, requires_grad=True)
{}
"""
CALLS = 'quantized_linear(x, w, None, "mxfp8:scale=rceil").sum().backward(); quantized_linear(x, w, None, "mxfp4")\n'
EXPECTED = {"linear": {"mxfp8": {"fprop": 1, "dgrad": 1, "wgrad": 1}, "mxfp4": {"fprop": 1}}}


def run(body: str, run_dir: Path | None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("QUANTCTL_RUN_DIR", "RANK")} | environment
    if run_dir is not None:
        env["QUANTCTL_RUN_DIR"] = str(run_dir)
    return python("-c", PROGRAM.format(body), env=env)


def proofs(run_dir: Path) -> list[dict]:
    files = sorted((run_dir / "proof").iterdir())
    data = [json.loads(file.read_text()) for file in files]
    assert [file.name for file in files] == [f"rank{d['rank']}-{d['pid']}.json" for d in data]  # and nothing else
    return data


@pytest.mark.parametrize(("environment", "rank"), [({}, 0), ({"RANK": "3"}, 3)], ids=["no rank", "rank 3"])
def test_a_process_leaves_its_counts(tmp_path, environment, rank) -> None:
    done = run(CALLS, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    (proof,) = proofs(tmp_path)
    assert proof["rank"] == rank
    assert proof["calls"] == EXPECTED


def test_counts_survive_an_exception_and_sys_exit(tmp_path) -> None:
    assert run(CALLS + "raise ValueError", tmp_path).returncode == 1
    assert run(CALLS + "sys.exit(7)", tmp_path).returncode == 7
    assert [proof["calls"] for proof in proofs(tmp_path)] == [EXPECTED] * 2


def test_the_first_count_is_on_disk_at_once(tmp_path) -> None:
    done = run(CALLS + "os._exit(0)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [proof["calls"] for proof in proofs(tmp_path)] == [{"linear": {"mxfp8": {"fprop": 1}}}]


def test_counts_are_written_again_after_the_interval(tmp_path) -> None:
    body = "hits.INTERVAL = 0.0\n" + CALLS + "os._exit(0)"
    assert run(body, tmp_path).returncode == 0
    assert [proof["calls"] for proof in proofs(tmp_path)] == [EXPECTED]


def test_a_forked_child_counts_for_itself(tmp_path) -> None:
    body = CALLS + 'if os.fork() == 0:\n    hits.tally("qk", "hifp8").add("fprop")\n    os._exit(0)\nos.wait()\n'
    done = run(body, tmp_path)
    assert done.returncode == 0, done.stderr
    calls = [proof["calls"] for proof in proofs(tmp_path)]
    assert len(calls) == 2
    assert EXPECTED in calls
    assert {"qk": {"hifp8": {"fprop": 1}}} in calls


def test_a_process_without_quantized_products_leaves_nothing(tmp_path) -> None:
    assert run('quantized_linear(x, w, None, "none").sum().backward()', tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_directory_counts_stay_in_the_process() -> None:
    done = run(CALLS + "print(hits.snapshot())", None)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"')) == EXPECTED


def test_a_run_directory_that_cannot_be_written_stops_the_first_product(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    done = run(CALLS + 'print("trained")', tmp_path / "file")
    assert done.returncode == 1
    assert "trained" not in done.stdout
    assert "cannot write the hit counts" in done.stderr
    assert "QUANTCTL_RUN_DIR" in done.stderr


def test_a_later_failure_to_write_is_reported_and_training_goes_on(tmp_path) -> None:
    body = (
        "hits.INTERVAL = 0.0\n" + CALLS + "import shutil, pathlib\n"
        'proof = pathlib.Path(os.environ["QUANTCTL_RUN_DIR"]) / "proof"\n'
        'shutil.rmtree(proof); proof.write_text("in the way")\n' + CALLS + 'print("trained")'
    )
    done = run(body, tmp_path)
    assert done.returncode == 0
    assert "trained" in done.stdout
    assert "cannot write the hit counts" in done.stderr


def test_counting_from_threads_loses_nothing() -> None:
    body = (
        "import threading\n"
        'work = lambda: [hits.tally("pv", "mxfp8").add("wgrad") for _ in range(20000)]\n'
        "sys.setswitchinterval(1e-6)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        'print(hits.snapshot()["pv"]["mxfp8"]["wgrad"])'
    )
    assert run(body, None).stdout.strip() == "80000"
