"""A tree, its .git or the state directory that cannot be written for a while, and a tree that comes into git late."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile import assert_civil, run_forked
from remembered import remember_insertion
from small import small_tree

from quantctl.tree.state import plan, read_state

SET = ("set", "--linear", "mxfp8", "--qk", "mxfp4")


@pytest.fixture(scope="module", autouse=True)
def _patched_once(megatron_tree, tmp_path_factory) -> None:
    """Here, and so in every fork: patching is most of the time."""
    remember_insertion()
    plan(read_state(small_tree(megatron_tree("0.16.1"), tmp_path_factory.mktemp("warm"))), {"linear": "mxfp8"})


@pytest.fixture
def tree(megatron_tree, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return small_tree(megatron_tree("0.16.1"), tmp_path / "tree")


def contents(tree: Path) -> dict[str, bytes]:
    files = (path for path in tree.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path): path.read_bytes() for path in files}


def ended(tree: Path, *arguments: str, status: int = 0):
    found = run_forked(["--megatron", tree, *arguments], tree)
    assert_civil(found, status)
    return found


@contextmanager
def read_only(folder: Path):
    def mount(*arguments: object) -> bool:
        return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0

    if not mount("--bind", folder, folder):
        pytest.skip("no right to mount here")
    try:
        if not mount("-o", "remount,bind,ro", folder):
            pytest.skip("no right to mount here")
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def in_git(tree: Path) -> None:
    for words in (
        ["init", "--quiet"],
        ["add", "-A"],
        ["-c", "user.name=T", "-c", "user.email=t@h", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=tree, check=True)


@pytest.mark.parametrize("folder", ["", "megatron/core/transformer"])
def test_a_refused_operation_leaves_nothing(tree, folder):
    before = contents(tree)
    with read_only(tree / folder):
        refused = ended(tree, *SET, status=2)
        assert "Read-only file system\n  nothing was changed\n" in refused.err
        assert contents(tree) == before
    ended(tree, "check")
    assert contents(tree) == before


def test_a_state_directory_that_cannot_be_written(tree, tmp_path):
    (tmp_path / "state").mkdir()
    with read_only(tmp_path / "state"):
        refused = ended(tree, *SET, status=2)
    assert "the tree's history cannot be kept in" in refused.err
    assert "XDG_STATE_HOME" in refused.err


def test_a_tree_that_comes_into_git_later_keeps_its_history(tree):
    before = contents(tree)
    ended(tree, *SET)
    in_git(tree)
    assert "--linear mxfp8" in ended(tree, "log").out
    ended(tree, "restore")
    assert contents(tree) == before


def test_a_repository_that_can_be_written_only_later(tree):
    in_git(tree)
    before = contents(tree)
    with read_only(tree / ".git"):
        ended(tree, *SET)
    ended(tree, "restore")
    assert contents(tree) == before


def test_a_repository_that_cannot_be_written_any_more(tree):
    in_git(tree)
    before = contents(tree)
    ended(tree, *SET)
    after = contents(tree)
    with read_only(tree / ".git"):
        assert "--linear mxfp8" in ended(tree, "log").out
        for command in (["restore"], ["set", "--linear", "mxfp4"]):
            refused = ended(tree, *command, status=2)
            assert f"the history of this tree is in {tree / '.git'}, which cannot be written" in refused.err
        assert contents(tree) == after
    ended(tree, "restore")
    assert contents(tree) == before
