"""Every step of every operation, killed or failing: the next command finds the old tree or the new one, whole."""

from __future__ import annotations

import errno
import os
import shutil
import signal

import pytest
from faults import STEPS, run_in_child

import quantctl.edit.insert  # noqa: F401  (loaded once here, not in each forked child)
from quantctl.errors import QuantctlError
from quantctl.git import GitError
from quantctl.paths import state_dir
from quantctl.state import FILES
from quantctl.transaction import open_tree

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
        self.stock = contents(tree)
        self.kept = {tree.root: tree.root.with_name("kept tree"), state_dir(): tree.root.with_name("kept state")}

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
        assert self.run(self.command)[0] == 0
        new = contents(self.tree)
        assert new != old
        return old, new

    def disturbed(self, act):
        """Run the command once for each STRIDE-th of its steps, disturbed there: yields status and the step's name."""
        for number in range(1, 1000, STRIDE):
            self.reset()
            status, step = self.run(self.command, number, act)
            if not step:
                assert status == 0
                return
            yield status, step

    def operations(self):
        """What the next command sees; opening the tree finishes what was killed."""
        with open_tree(self.tree) as session:
            return session.backup.operations()

    def leftovers(self):
        return [path for path in self.tree.root.rglob(".*") if path.is_file()]


def _scenes(*names):
    return pytest.mark.parametrize("prepared", [PREPARED[name] for name in names or PREPARED], ids=names or PREPARED)


@pytest.fixture
def scene(prepared, tree):
    return Scene(tree, *prepared)


@_scenes()
def test_killed_at_every_step(scene):
    old, new = scene.outcome()
    matrix = []
    for status, step in scene.disturbed(lambda _: os.kill(os.getpid(), signal.SIGKILL)):
        assert status == -signal.SIGKILL
        newest = "".join(operation.command for operation in scene.operations()[:1])
        present = contents(scene.tree)
        assert present in (old, new), step
        found = "new" if present == new else "old"
        assert newest.endswith(" ".join(scene.command)) == (found == "new"), step
        assert scene.leftovers() == [], step
        matrix.append((len(matrix) * STRIDE + 1, step, found))
        assert scene.run(["restore"])[0] == 0
        assert contents(scene.tree) == scene.stock
    assert STRIDE > 1 or set(STEPS) == {step for _, step, _ in matrix}
    assert {found for _, _, found in matrix} == {"old", "new"}
    print(f"\nSIGKILL during {' '.join(scene.command)}:")
    print("\n".join(f"  step {number:3}  {step:<7} -> {found} tree" for number, step, found in matrix))


@_scenes("set a patched tree", "restore")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_every_failing_step_leaves_the_old_tree(scene, code):
    """The command refuses (2) and nothing has changed, or it succeeded all the same."""

    def fail(step):
        raise GitError(os.strerror(code)) if step == "git" else OSError(code, os.strerror(code), "somewhere")

    old, new = scene.outcome()
    refused = 0
    for status, step in scene.disturbed(fail):
        assert status in (0, 2), step
        assert contents(scene.tree) == (new if status == 0 else old), step
        assert scene.leftovers() == [], step
        refused += status == 2
    assert refused


@_scenes("set a patched tree", "restore")
def test_an_interrupt_leaves_the_old_tree_or_the_new_one(scene):
    old, new = scene.outcome()
    for status, step in scene.disturbed(lambda _: signal.raise_signal(signal.SIGINT)):
        assert status == 130, step
        assert contents(scene.tree) in (old, new), step
        assert scene.leftovers() == [], step


def test_a_journal_whose_file_was_edited_is_not_overwritten(tree):
    scene = Scene(tree, [], ["set", "--linear", "mxfp8"])
    stock = contents(tree)
    # the first rename is the journal's, the second one puts the first file in place
    assert scene.run(scene.command, ("rename", 3), lambda _: os.kill(os.getpid(), signal.SIGKILL))[1] == "rename"
    changed = next(
        path for path in (tree.root / file for file in FILES) if contents(tree)[str(path)] != stock[str(path)]
    )
    changed.write_text("# mine\n")
    with pytest.raises(QuantctlError, match="killed half way"), open_tree(tree):
        pass
    assert changed.read_text() == "# mine\n"
