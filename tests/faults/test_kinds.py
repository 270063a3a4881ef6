"""What else can happen between any two steps: a hangup, `git gc`, an edit of the owner's, a mount that turns read-only,
another home that goes on. Every test prints how often; QUANTCTL_FAULT_STRIDE=1 (`make faults`) takes every step.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
from scenes import PREPARED, STRIDE, Scene, contents

from quantctl.disk.paths import state_dir
from quantctl.errors import QuantctlError
from quantctl.history import journal
from quantctl.history.recovery import read_consistent
from quantctl.history.transaction import open_tree
from quantctl.tree.selectors import ATTENTION, LAYERS

WIDE = STRIDE if STRIDE == 1 else 3 * STRIDE
"""CI's stride here: these kinds share most of their steps with the matrix."""


def kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def scene(request, tree):
    return Scene(tree, *PREPARED[request.param])


def scenes(*names):
    return pytest.mark.parametrize("scene", names, indirect=True)


def show(kind, counts):
    print(f"\n{kind}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@scenes("set a patched tree", "restore")
def test_a_hangup_at_every_step(scene):
    """What the history names happened, and the rest did not."""
    old, new = scene.outcome()
    counts: Counter[str] = Counter()
    for status, step in scene.disturbed(lambda _: signal.raise_signal(signal.SIGHUP), WIDE):
        assert status == 130, step
        present = contents(scene.tree)
        assert present in (old, new), step
        assert not journal.path_of(scene.tree).exists(), step
        newest = scene.operations()[0].command
        assert newest.endswith(" ".join(scene.command)) == (present == new), step
        assert scene.leftovers() == [], step
        counts["new" if present == new else "old"] += 1
    show(f"SIGHUP during {scene.command[0]}", counts)


@scenes("set a patched tree")
@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed behind it"])
def test_git_gc_at_every_step(scene, killed):
    """The owner's bytes stay reachable, and the history readable, whenever `git gc --prune=now` comes."""
    repository = state_dir() / "backups.git"

    def gc(_: str) -> None:
        subprocess.run(["git", "-C", repository, "gc", "--quiet", "--prune=now"], check=True, capture_output=True)
        if killed:
            kill(_)

    old, new = scene.outcome()
    counts: Counter[str] = Counter()
    for status, step in scene.disturbed(gc, WIDE):
        assert status in ((-signal.SIGKILL,) if killed else (0, 2)), step
        operations = scene.operations()
        present = contents(scene.tree)
        assert present in (old, new), step
        assert operations[0].command.endswith(" ".join(scene.command)) == (present == new), step
        counts[f"-> {'new' if present == new else 'old'} tree"] += 1
        assert scene.run(["restore"])[0] == 0
        assert contents(scene.tree) == scene.stock
    show(f"git gc --prune=now{', then SIGKILL,' * killed} during {scene.command[0]}", counts)


@scenes("set a patched tree", "restore")
@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed behind it"])
def test_an_edit_of_the_owner_at_every_step(scene, killed):
    """His newest bytes are on disk, whatever becomes of the operation."""
    mine = b"# saved meanwhile\n"
    path = scene.tree.root / LAYERS

    def edit(_: str) -> None:
        path.with_name("editor").write_bytes(mine)
        path.with_name("editor").rename(path)
        if killed:
            kill(_)

    scene.outcome()
    counts: Counter[str] = Counter()
    for status, step in scene.disturbed(edit, WIDE):
        assert status in ((-signal.SIGKILL,) if killed else (0, 2)), step
        try:
            with open_tree(scene.tree):
                pass
        except QuantctlError as refusal:
            if "was edited since" not in refusal.message:
                raise
            counts["left to the owner to decide"] += 1
        else:
            assert scene.leftovers() == [], step
            counts["nothing left to decide"] += 1
        assert path.read_bytes() == mine, step
    show(f"an edit{', then SIGKILL,' * killed} during {scene.command[0]}", counts)


def _mount(*arguments: object) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@scenes("set a stock tree", "restore")
def test_a_mount_that_turns_read_only_at_every_step(scene):
    """Refused, it is not carried out once the mount can be written, and reading it writes nothing.

    While a file is being written the kernel refuses the change of the mount, and the operation goes on.
    """
    core = scene.tree.core
    if not (_mount("--bind", core, core) and _mount("-o", "remount,bind,ro", core)):
        pytest.skip("no right to mount here")
    subprocess.run(["umount", core], check=True)
    old, new = scene.outcome()
    counts: Counter[str] = Counter()
    for number in range(1, 1000, WIDE):
        scene.reset()
        _mount("--bind", core, core)
        try:
            status, step = scene.run(scene.command, number, lambda _: _mount("-o", "remount,bind,ro", core))
            _mount("-o", "remount,bind,rw", core)
            left = contents(scene.tree)
            assert status == (0 if left == new else 2), step
            names = sorted(os.listdir(core))
            if left in (old, new):
                read_consistent(scene.tree)
                counts["new tree" if left == new else "old tree"] += 1
            else:
                with pytest.raises(QuantctlError, match="killed half way"):
                    read_consistent(scene.tree)
                counts["a mixture that says so, then the old tree"] += 1
            assert (contents(scene.tree), sorted(os.listdir(core))) == (left, names), step
            with open_tree(scene.tree):
                pass
            assert contents(scene.tree) == (new if left == new else old), step
            assert scene.leftovers() == [], step
        finally:
            subprocess.run(["umount", core], check=True)
        if not step:
            break
    show(f"read-only during {scene.command[0]}", counts)


@pytest.fixture
def other_home(tmp_path, monkeypatch):
    """Function that moves to another user's state directory, or back."""
    mine = os.environ["XDG_STATE_HOME"]
    monkeypatch.setenv("XDG_STATE_HOME", mine)

    def move(away: bool) -> None:
        os.environ["XDG_STATE_HOME"] = str(tmp_path / "other home") if away else mine

    return move


@scenes("set a stock tree")
def test_another_home_goes_on_behind_a_kill_at_every_step(scene, other_home, tmp_path):
    """It changes nothing of an operation that is not its own; whoever did that gets the stock bytes back."""
    old, new = scene.outcome()
    counts: Counter[str] = Counter()
    for _, step in scene.disturbed(kill, WIDE):
        left = contents(scene.tree)
        other_home(True)
        shutil.rmtree(tmp_path / "other home", ignore_errors=True)
        status, _ = scene.run(["set", "--pv", "hifp8"])
        other_home(False)
        assert status in (0, 2), step
        if status == 2:
            assert contents(scene.tree) == left, step
            scene.operations()
            assert contents(scene.tree) in (old, new), step
        else:
            assert left in (old, new), step
            other_home(True)
            assert scene.run(["undo"])[0] == 0
            other_home(False)
            assert contents(scene.tree) == left
        counts["refused" if status == 2 else "went on"] += 1
        assert scene.run(["restore"])[0] == 0, step
        assert contents(scene.tree) == scene.stock, step
    show("another home behind a kill", counts)


def test_two_homes_have_one_lock(tree, other_home):
    """The other one waits, and sees the tree as the first one left it."""
    stock = contents(tree)
    with open_tree(tree):
        other_home(True)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "quantctl.cli", "--megatron", tree.root, "set", "--qk", "mxfp8"],
            stderr=subprocess.DEVNULL,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=3)
        assert contents(tree) == stock
    assert waiting.wait() == 0
    assert b"custom_quant_type_qk = 'mxfp8'" in (tree.root / ATTENTION).read_bytes()
