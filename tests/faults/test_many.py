"""Many processes at once, and many random kills: every state that is seen was asked for, and none is torn."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter

import pytest
from faults import run_in_child
from remembered import remember_insertion
from scenes import STRIDE

from quantctl import cli
from quantctl.history import journal
from quantctl.history.backup import Backup
from quantctl.history.recovery import read_consistent
from quantctl.history.transaction import Change, open_tree
from quantctl.spec import SITES
from quantctl.tree.state import plan, read_state

KILLS = int(os.environ.get("QUANTCTL_RANDOM_KILLS", "25"))
"""`make faults` takes 1,000."""
ROUNDS = 25 if STRIDE == 1 else 8
"""Operations of each process."""

VALUES = ("mxfp8", "mxfp4", "hifp8", "none")


def loop(tree, values, rounds, tell=os.devnull) -> int:
    """The number of a process that sets all selectors of formats to one value after the other.

    It writes a byte to the file `tell` before and behind each change.
    """
    remember_insertion()
    plan(read_state(tree.root), {})
    if pid := os.fork():
        return pid
    status = 1
    try:
        told = open(tell, "wb", buffering=0)  # noqa: SIM115
        for number in range(rounds):
            value = values[number % len(values)]
            wanted = dict.fromkeys(SITES, value)
            with open_tree(tree) as session:
                state = read_state(tree.root)
                changes = [Change(file, state.sources[file].raw, raw) for file, raw in plan(state, wanted).items()]
                told.write(b".")
                session.apply(changes, "set", "quantctl set " + value, wanted)
                told.write(b".")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def has_ended(pid) -> bool:
    """Whether it has; it must have ended well."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    assert not ended or status == 0, "see what it printed"
    return bool(ended)


def formats(values):
    """What the selectors of formats say; that of attention stays what it is."""
    return {value for role, value in values.items() if role in SITES}


def test_eight_processes_and_readers(tree, quantctl):
    """Each process sets all selectors of formats, which live in two files, to one value: nobody may see a mixture."""
    assert run_in_child(["--megatron", str(tree.root), "patch"])[0] == 0
    writers = [loop(tree, random.Random(i).sample(VALUES, 4), ROUNDS) for i in range(8)]
    seen = 0
    while writers := [writer for writer in writers if not has_ended(writer)]:
        values = formats(read_consistent(tree).values())
        assert len(values) == 1, values
        seen += 1
        time.sleep(0.02)
    assert seen > 10
    with open_tree(tree) as session:
        operations = session.backup.operations()
    values = [formats(operation.selectors) for operation in operations]
    assert all(len(each) == 1 for each in values[:-1])
    assert values[0] == formats(read_state(tree.root).values())
    log = json.loads(quantctl("--megatron", tree.root, "--json", "log").out)["operations"]
    assert [operation["id"] for operation in log] == [operation.id for operation in operations]


def test_random_kills(tree):
    assert run_in_child(["--megatron", str(tree.root), "patch"])[0] == 0
    stock_length = len(read_state(tree.root).values())
    chance = random.Random(7)
    counts: Counter[str] = Counter()
    pipe = tree.root.with_name("pipe")
    os.mkfifo(pipe)
    for _ in range(KILLS):
        (present,) = formats(read_state(tree.root).values())
        victim = loop(tree, [value for value in VALUES if value != present], 10**6, pipe)
        with open(pipe, "rb", buffering=0) as told:
            assert told.read(1)
            start = time.monotonic()
            assert told.read(1)
            takes = time.monotonic() - start
            assert told.read(1)
            time.sleep(chance.random() ** 0.5 * takes)  # rather late: files change at its end
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
        in_between = journal.path_of(tree).exists()
        with open_tree(tree) as session:
            newest = session.backup.operations()[0]
        values = read_state(tree.root).values()
        assert len(values) == stock_length
        assert {role: values[role] for role in newest.selectors} == newest.selectors, "a torn tree"
        assert not [path for path in tree.root.rglob(".*") if path.is_file()]
        counts["with a journal left" if in_between else "without"] += 1
    print(f"\n{KILLS} random kills: " + ", ".join(f"{count} {where}" for where, count in counts.items()))
    assert run_in_child(["--megatron", str(tree.root), "restore"])[0] == 0
    assert read_state(tree.root).values() == {}


SLOW_GIT = """#!/bin/sh
case " $* " in *" update-ref --stdin "*)
    if [ -e {folder}/slow ]; then
        echo $$ > {folder}/waits.new && mv {folder}/waits.new {folder}/waits
        while [ -e {folder}/slow ]; do sleep 0.01; done
    fi ;;
esac
exec {git} "$@"
"""


@pytest.mark.parametrize(("step", "qk"), [("hold", "hifp8"), ("publish", "hifp8"), ("publish", "none")])
def test_git_that_outlives_its_process(tree, monkeypatch, step, qk):
    """A killed process leaves its last git at work: what that does later changes nothing that was decided meanwhile."""
    assert run_in_child(["--megatron", str(tree.root), "set", "--linear", "mxfp8"])[0] == 0
    folder = tree.root.with_name("slow-git")
    folder.mkdir()
    (folder / "git").write_text(SLOW_GIT.format(folder=folder, git=shutil.which("git")))
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    victim = os.fork()
    if not victim:
        try:
            original = getattr(Backup, step)
            setattr(Backup, step, lambda *words: ((folder / "slow").touch(), original(*words)))
            cli.cli.main(["--megatron", str(tree.root), "set", "--linear", "mxfp4"])
        finally:
            os._exit(1)
    while not (folder / "waits").exists():
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    orphan = int((folder / "waits").read_text())
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])
    assert run_in_child(["--megatron", str(tree.root), "set", "--qk", qk])[0] == 0  # none: it only takes back
    (folder / "slow").unlink()
    while os.path.exists(f"/proc/{orphan}"):
        time.sleep(0.01)
    with open_tree(tree) as session:
        commands = [operation.command.rpartition(" set ")[2] for operation in session.backup.operations()]
        session.backup.repository.run("fsck", "--no-dangling")
    values = read_state(tree.root).values()
    assert (values["linear"], values["qk"]) == ("mxfp8", qk)
    assert commands[:2] == (["--qk hifp8"] if qk != "none" else []) + ["--linear mxfp8"]
    assert run_in_child(["--megatron", str(tree.root), "set", "--linear", "none"])[0] == 0


@pytest.mark.parametrize("code", ["ENOSYS", "ENOTSUP", "ENOLCK"])
def test_a_file_system_without_locks(tree, code):
    """As on some NFS mounts flock fails: the operation goes on under a lock file, or refuses; it is never unlocked."""
    program = f"""
import errno, fcntl, sys
def no_locks(*_):
    raise OSError(errno.{code}, "no locks here")
fcntl.flock = no_locks
from quantctl import cli
sys.argv = ["quantctl", "--megatron", {str(tree.root)!r}, "set", "--qk", "mxfp8"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    value = read_state(tree.root).values().get("qk")
    assert (done.returncode, value) in ((0, "mxfp8"), (2, None)), done.stderr
    if done.returncode == 2:
        assert "lock" in done.stderr
