"""Many processes at once, and many random kills: every state that is seen was asked for, and none is torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from faults import run_in_child
from scenes import STRIDE

from quantctl.history.recovery import read_consistent
from quantctl.history.transaction import open_tree
from quantctl.spec import SITES
from quantctl.tree.state import read_state

KILLS = int(os.environ.get("QUANTCTL_RANDOM_KILLS", "25"))
"""`make faults` takes 1,000."""
ROUNDS = 25 if STRIDE == 1 else 8
"""Operations of each process."""

VALUES = ("mxfp8", "mxfp4", "hifp8", "none")

LOOP = """
import sys
from pathlib import Path
from quantctl.tree.state import read_state, plan
from quantctl.history.transaction import Change, open_tree
from quantctl.tree.tree import Tree

tree, values, rounds = Tree(Path(sys.argv[1]), "--megatron"), sys.argv[2].split(","), int(sys.argv[3])
for number in range(rounds):
    value = values[number % len(values)]
    with open_tree(tree) as session:
        state = read_state(tree.root)
        wanted = dict.fromkeys(("linear", "lm_head", "qk", "pv"), value)
        changes = [Change(f, state.sources[f].raw, raw) for f, raw in plan(state, wanted).items()]
        session.apply(changes, "set", "quantctl set " + value, wanted)
"""


def loop(tree, values, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, tree.root, ",".join(values), str(rounds)], stderr=subprocess.PIPE
    )


def formats(values):
    """What the selectors of formats say; that of attention stays what it is."""
    return {value for role, value in values.items() if role in SITES}


def test_eight_processes_and_readers(tree, quantctl):
    """Each process sets all selectors of formats, which live in two files, to one value: nobody may see a mixture."""
    assert run_in_child(["--megatron", str(tree.root), "patch"])[0] == 0
    writers = [loop(tree, random.Random(i).sample(VALUES, 4), ROUNDS) for i in range(8)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        values = formats(read_consistent(tree).values())
        assert len(values) == 1, values
        seen += 1
        time.sleep(0.02)
    for writer in writers:
        assert writer.wait() == 0, writer.stderr.read()
        writer.stderr.close()
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
    for _ in range(KILLS):
        victim = loop(tree, VALUES, 10**6)
        time.sleep(0.25 + chance.random() * 0.4)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stderr.close()
        with open_tree(tree) as session:
            newest = session.backup.operations()[0]
        values = read_state(tree.root).values()
        assert len(values) == stock_length
        assert {role: values[role] for role in newest.selectors} == newest.selectors, "a torn tree"
        assert not [path for path in tree.root.rglob(".*") if path.is_file()]
    assert run_in_child(["--megatron", str(tree.root), "restore"])[0] == 0
    assert read_state(tree.root).values() == {}


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
