"""Several files change together or not at all, also when writing fails or the process dies half way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from quantctl import files
from quantctl.errors import QuantctlError
from quantctl.state import FILES, plan, read_state
from quantctl.transaction import Change, open_tree
from quantctl.tree import Tree


def contents(tree: Tree) -> dict[str, bytes]:
    return {file: (tree.root / file).read_bytes() for file in FILES if (tree.root / file).exists()}


def changes_to(tree: Tree, values: dict[str, str]) -> list[Change]:
    state = read_state(tree.root)
    return [Change(file, state.sources[file].raw, raw) for file, raw in plan(state, values).items()]


@pytest.fixture
def tree(stock_copy) -> Tree:
    return Tree(stock_copy("0.16.1").resolve(), "--megatron")


def leftovers(tree: Tree) -> list[str]:
    return [path.name for path in tree.core.rglob(".*.quantctl")]


@pytest.mark.parametrize("step", ["stage", "commit"])
@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_failed_write_changes_nothing(tree, monkeypatch, step, failing_call):
    before, calls, real = contents(tree), [], getattr(files, step)

    def fail_once(path, *arguments):
        calls.append(path)
        if len(calls) == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *arguments)

    monkeypatch.setattr(files, step, fail_once)
    with open_tree(tree) as session:
        with pytest.raises(QuantctlError, match="No space left on device"):
            session.apply(changes_to(tree, {"qk": "mxfp8"}), "set", "quantctl set", {})
        assert session.recover() is None
        assert session.backup.operations() == []
    assert contents(tree) == before
    assert leftovers(tree) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from quantctl import files
from quantctl.state import plan, read_state
from quantctl.transaction import Change, open_tree
from quantctl.tree import Tree

tree = Tree(Path(sys.argv[1]), "--megatron")
step, call = sys.argv[2], int(sys.argv[3])
real, calls = getattr(files, step), []

def die(*arguments):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(files, step, die)
with open_tree(tree) as session:
    state = read_state(tree.root)
    changes = [Change(f, state.sources[f].raw, raw) for f, raw in plan(state, {"qk": "mxfp4"}).items()]
    session.apply(changes, "set", "quantctl set --qk mxfp4", {})
"""


@pytest.mark.parametrize(("step", "call"), [("write_new", 1), ("stage", 1), ("stage", 3), ("commit", 1), ("commit", 3)])
def test_killed_operation_is_finished_by_the_next_command(tree, quantctl, step, call):
    stock = contents(tree)
    with open_tree(tree):
        changed = stock | {change.path: change.after for change in changes_to(tree, {"qk": "mxfp4"})}
    done = subprocess.run([sys.executable, "-c", KILLED, tree.root, step, str(call)], capture_output=True)
    assert done.returncode == -9, done.stderr
    with open_tree(tree) as session:
        operations = session.backup.operations()
    # before the journal is written nothing has happened; afterwards the operation is carried to its end
    assert contents(tree) == (stock if step == "write_new" else changed)
    assert len(operations) == (0 if step == "write_new" else 1)
    assert leftovers(tree) == []
    assert quantctl("--megatron", tree.root, "restore").status == 0
    assert contents(tree) == stock
