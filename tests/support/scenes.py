"""A small tree before an operation, and the operation disturbed at its steps."""

from __future__ import annotations

import os
import shutil

from faults import run_in_child
from remembered import remember_insertion

from quantctl.disk.paths import state_dir
from quantctl.history.transaction import open_tree
from quantctl.tree.state import FILES, plan, read_state

STRIDE = int(os.environ.get("QUANTCTL_FAULT_STRIDE", "11"))
"""Every how many steps an operation is disturbed; `make faults` takes every one."""

PREPARED = {
    # name: commands that lead to the state before, the command under fault
    "patch a stock tree": ([], ["patch"]),
    "set a stock tree": ([], ["set", "--linear", "mxfp8", "--qk", "mxfp4"]),
    "set a patched tree": ([["patch"]], ["set", "--linear", "mxfp8", "--qk", "mxfp4"]),
    "restore": ([["set", "--mode", "mxfp8"]], ["restore"]),
    "undo": ([["set", "--mode", "mxfp8"], ["set", "--mode", "hifp8"]], ["undo"]),
}


def contents(tree) -> dict[str, tuple[bytes, int]]:
    paths = [tree.root / file for file in FILES if (tree.root / file).exists()]
    return {str(path): (path.read_bytes(), path.stat().st_mode) for path in paths}


class Scene:
    """A tree before an operation."""

    def __init__(self, tree, before, command):
        self.tree, self.before, self.command = tree, before, command
        self._prepare()
        self.stock = contents(tree)
        self.kept = {tree.root: tree.root.with_name("kept tree"), state_dir(): tree.root.with_name("kept state")}

    def _prepare(self):
        """Read and plan here what the forks will: they take over what this process remembers."""
        remember_insertion()
        state = read_state(self.tree.root)
        for values in ({}, {"linear": "mxfp8", "qk": "mxfp4"}):
            plan(state, values)

    def run(self, command, at=0, act=None):
        return run_in_child(["--megatron", str(self.tree.root), *command], at, act)

    def reset(self):
        """The tree and its history as they were when `outcome` kept them."""
        for folder, kept in self.kept.items():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)

    def outcome(self):
        """The state before and the one after, undisturbed."""
        for command in self.before:
            assert self.run(command)[0] == 0
        old = contents(self.tree)
        for folder, kept in self.kept.items():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, kept)
        self._prepare()
        assert self.run(self.command)[0] == 0
        new = contents(self.tree)
        self._prepare()
        assert new != old
        return old, new

    def disturbed(self, act, stride=STRIDE):
        """Run the command once for each stride-th of its steps, disturbed there: yields status and the step's name."""
        for number in range(1, 1000, stride):
            self.reset()
            status, step = self.run(self.command, number, act)
            if not step:
                assert status == 0
                return
            yield status, step

    def operations(self):
        """What the next command sees; opening the tree takes back what was killed."""
        with open_tree(self.tree) as session:
            return session.backup.operations()

    def leftovers(self):
        return [path for path in self.tree.root.rglob(".*") if path.is_file()]
