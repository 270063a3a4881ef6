"""Every step of every operation, killed or failing: the next command finds the old tree or the new one, whole."""

from __future__ import annotations

import errno
import os
import signal

import pytest
from faults import STEPS
from scenes import PREPARED, STRIDE, Scene, contents

from quantctl.errors import QuantctlError
from quantctl.history.git import GitError
from quantctl.history.transaction import open_tree
from quantctl.tree.state import FILES


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
    # only from the move of the ref on, in the last few steps, it is the new one
    assert {found for _, _, found in matrix} >= {"old", "new"} - ({"new"} if STRIDE > 1 else set())
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
        scene.operations()  # what could not be removed goes with the next command
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
    assert scene.run(scene.command, ("exchange", 2), lambda _: os.kill(os.getpid(), signal.SIGKILL))[1] == "exchange"
    changed = next(
        path for path in (tree.root / file for file in FILES) if contents(tree)[str(path)] != stock[str(path)]
    )
    changed.write_text("# mine\n")
    with pytest.raises(QuantctlError, match="killed half way"), open_tree(tree):
        pass
    assert changed.read_text() == "# mine\n"
