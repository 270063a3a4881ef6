"""Who owns a run directory, and for how long: signals, kills, processes that outlive exec, numbers of strangers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantctl.errors import QuantctlError
from quantctl.runs import descent, process, proof, rundir
from quantctl.runs.execution import child_environment


@pytest.fixture
def start(megatron_tree, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Function that starts `quantctl exec --run-dir tmp_path/run -- sh -c SCRIPT` and waits for its first line."""
    started = []

    def run(script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1")), "exec"]
        run = subprocess.Popen(
            [*command, "--mode", "bf16", "--run-dir", tmp_path / "run", "--", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(run)
        return run

    yield run
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z":
                time.sleep(0.02)
                continue
        return True
    return False


def attempts(tmp_path: Path) -> list[dict]:
    return json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]


def test_a_lost_terminal_is_a_wish_to_stop(start, tmp_path):
    run = start("trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=60) == 3
    (attempt,) = attempts(tmp_path)
    assert (attempt["exit_status"], attempt["stopped_early"]) == (3, True)


def test_a_terminal_that_is_gone_costs_no_manifest(megatron_tree, tmp_path):
    """The kernel's own SIGHUP, to exec and to the command; what exec says has no reader."""
    ours, theirs = pty.openpty()
    script = f"trap '' HUP; trap 'exit 3' TERM; echo >{tmp_path}/ready; while :; do sleep 0.05; done"
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "quantctl.cli", "--megatron", megatron_tree("0.16.1"), "exec", "--mode", "bf16"),
            *("--run-dir", tmp_path / "run", "--", "sh", "-c", script),
        ],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    wait_for(tmp_path / "ready")
    os.close(ours)
    assert run.wait(timeout=60) == 3
    (attempt,) = attempts(tmp_path)
    assert (attempt["exit_status"], attempt["stopped_early"]) == (3, True)


def test_whoever_outlives_a_killed_exec_keeps_the_directory(start, tmp_path):
    """The trainer stands for one that takes its time over the SIGTERM that it gets when exec is killed."""
    first = start("trap 'echo >told' TERM; echo $$; while :; do sleep 0.05; done".replace("told", f"{tmp_path}/told"))
    trainer = int(first.stdout.readline())
    (tmp_path / "run" / "stop").touch()
    second = start("echo second")
    assert second.wait(timeout=60) == 2, second.stderr.read()
    assert f"another run is writing to {tmp_path}/run: process " in second.stderr.read()
    assert (tmp_path / "run" / "stop").exists()
    (tmp_path / "run" / "stop").unlink()
    first.kill()
    first.wait()
    second = start("echo second")
    assert second.wait(timeout=60) == 2
    said = second.stderr.read()
    assert f"{trainer} (sh)" in said
    assert "kill " in said
    assert (tmp_path / "told").exists()
    os.kill(trainer, signal.SIGKILL)
    assert gone(trainer)
    third = start("echo third; exit 5")
    assert third.wait(timeout=60) == 5, third.stderr.read()


def test_what_a_command_leaves_behind_keeps_nobody_out(start, tmp_path):
    first = start("sleep 60 & echo $!; exit 4")
    left = int(first.stdout.readline())
    assert first.wait(timeout=60) == 4
    second = start("exit 5")
    assert second.wait(timeout=60) == 5, second.stderr.read()
    os.kill(left, signal.SIGKILL)


TRAINER = "import megatron.core, sys; print('up', flush=True); sys.stdin.read()"


def test_a_trainer_keeps_the_directory_whoever_started_it(tmp_path):
    """torchrun hands no descriptor on to its ranks."""
    source, staged = tmp_path / "source", tmp_path / "staged"
    (staged / "megatron" / "core").mkdir(parents=True)
    (staged / "megatron" / "core" / "__init__.py").touch()
    with rundir.owned(tmp_path / "run", 0):
        trainer = subprocess.Popen(
            [sys.executable, "-c", TRAINER],
            env=child_environment(source, staged, tmp_path / "run"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert trainer.stdout.readline() == b"up\n"
    with pytest.raises(QuantctlError, match=f"process {trainer.pid} "), rundir.owned(tmp_path / "run", 0):
        pass
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "run" / "proof").iterdir()]
    assert descent.matches(trainer.pid, record)
    trainer.communicate()
    with rundir.owned(tmp_path / "run", 0):
        pass


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOSYS, "no locks")


def test_without_locks_the_one_that_is_named_keeps_the_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        rundir.owned(tmp_path, 0),
        pytest.raises(QuantctlError, match="another run is writing"),
        rundir.owned(tmp_path, 0),
    ):
        pass
    dead = descent.as_record(descent.own()) | {"start": 1}
    (tmp_path / ".lock").write_text(json.dumps(dead))
    with rundir.owned(tmp_path, 0):
        pass


STANDS_FOR_A_TRAINER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(os.write(2, b"saved")))
start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
path = os.path.join(sys.argv[1], "proof", "import-0-0-0.json")
with open(path + ".new", "w") as file:
    json.dump({"pid": os.getpid(), "start": start, "node": 0}, file)
os.replace(path + ".new", path)
time.sleep(60)
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)


def test_a_trainer_in_a_namespace_of_its_own_is_reached_and_its_namesake_is_not(tmp_path):
    """It calls itself 1 or 2 there, which is somebody else here."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces for this user")
    proof.clear(tmp_path)
    command = [*unshare, "sh", "-c", '"$@"; true', "sh", sys.executable, "-c", STANDS_FOR_A_TRAINER, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as inside:
        path = tmp_path / "proof" / "import-0-0-0.json"
        wait_for(path)
        record = json.loads(path.read_text())
        assert record["pid"] < 10
        (reached,) = process._Stopping(tmp_path, 0)._signal_trainers(os.getpid())
        assert reached != record["pid"]
        assert inside.communicate(timeout=30)[1] == b"saved"


def test_a_trainer_whose_starter_was_killed_is_told_to_end(tmp_path, capfd):
    proof.clear(tmp_path)
    path = tmp_path / "proof" / "import-0-0-0.json"
    starter = f'"$@" & while [ ! -e {path} ]; do sleep 0.02; done; kill -9 $$'
    command = ["sh", "-c", starter, "sh", sys.executable, "-c", STANDS_FOR_A_TRAINER, str(tmp_path)]
    assert process.run(command, os.environ, tmp_path, "log.txt", 0).status == 137
    assert gone(json.loads(path.read_text())["pid"])
    assert "its trainers have not: SIGTERM to" in capfd.readouterr().err
    assert "saved" in (tmp_path / "log.txt").read_text()


def test_runs_that_start_in_the_same_second_have_names_of_their_own(tmp_path):
    made = [rundir.fresh(tmp_path / "runs") for _ in range(4)]
    assert len({path.resolve() for path in made}) == 4
    assert all(path.is_dir() for path in made)


def test_a_run_that_is_refused_leaves_no_directory(tmp_path):
    with pytest.raises(QuantctlError), rundir.owned(tmp_path / "run", 0):
        raise QuantctlError("refused")
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_written_down(quantctl, megatron_tree, tmp_path):
    secret = "a1b2c3d4e5"
    variables = dict.fromkeys(("NCCL_AUTH_TOKEN", "TORCH_SECRET", "CUDA_KEY", "QUANTCTL_TOKEN"), secret)
    command = ["env", f"WANDB_API_KEY={secret}", "sh", "-c", "exit 7", "--wandb-key", secret, f"--hf-token={secret}"]
    done = quantctl(
        *("--megatron", megatron_tree("0.16.1"), "exec", "--mode", "bf16", "--run-dir", tmp_path / "run", "--"),
        *command,
        f"http://me:{secret}@proxy",
        env={**variables, "NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "1"},
    )
    assert done.status == 7
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or secret not in path.read_text(), path
    (attempt,) = attempts(tmp_path)
    assert attempt["environment"].items() >= {"NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "1"}.items()
    assert attempt["asked"][:2] == ["env", "WANDB_API_KEY=***"]


MODES = {0o700: 0o077, 0o750: 0o027, 0o755: 0o022}
"""A tree's mode -> what nobody gets of a run under umask 022."""


@pytest.mark.parametrize(("mode", "withheld"), MODES.items(), ids=map(oct, MODES))
def test_what_a_run_makes_is_as_private_as_its_tree(stock_copy, tmp_path, mode, withheld):
    tree, run, cache = stock_copy("0.16.1"), tmp_path / "run", tmp_path / "cache"
    tree.chmod(mode)
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", tree, "exec", "--mode", "bf16", "--run-dir", run]
    made_by_ranks = "mkdir $QUANTCTL_RUN_DIR/stats; echo >$QUANTCTL_RUN_DIR/stats/rank0.jsonl"
    subprocess.run(
        [*command, "--", "sh", "-c", made_by_ranks],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        umask=0o022,
        capture_output=True,
    )
    modes = {str(path.relative_to(run)): path.stat().st_mode & 0o777 for path in [run, *run.rglob("*")]}
    assert {"manifest.json", "log.txt", "proof.json", ".lock", "stats/rank0.jsonl"} <= modes.keys()
    assert {name: oct(mode) for name, mode in modes.items() if mode & withheld} == {}
    assert modes["log.txt"] == 0o666 & ~withheld
    assert {path.stat().st_mode & 0o777 for path in (cache / "quantctl" / "staged").iterdir()} == {0o700}
