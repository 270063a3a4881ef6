"""log, undo and restore --to, and what happens to a history when people edit, upgrade or move the tree."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from quantctl.tree.selectors import ATTENTION, LAYERS

QK = ("none", "mxfp8", "mxfp4", "hifp8")


def value_of(quantctl, tree, role="qk"):
    return json.loads(quantctl("--megatron", tree, "--json", "check").out)["selectors"][role]["value"]


def operations(quantctl, tree):
    return json.loads(quantctl("--megatron", tree, "--json", "log").out)["operations"]


@pytest.fixture
def tree(stock_copy, quantctl):
    """A tree with four operations: qk none, mxfp8, mxfp4, hifp8."""
    tree = stock_copy("0.16.1")
    for value in QK:
        assert quantctl("--megatron", tree, "set", "--qk", value).status == 0
    return tree


def test_undo_goes_back_one_at_a_time_to_the_stock_tree(quantctl, tree, megatron_tree):
    for expected in (*reversed(QK[:-1]), None):
        assert quantctl("--megatron", tree, "undo").status == 0
        assert value_of(quantctl, tree) == expected
    assert (tree / LAYERS).read_bytes() == (megatron_tree("0.16.1") / LAYERS).read_bytes()
    done = quantctl("--megatron", tree, "undo")
    assert (done.status, done.out) == (0, "")
    assert "nothing to undo" in done.err


def test_undo_after_new_work_takes_back_the_new_work(quantctl, tree):
    quantctl("--megatron", tree, "undo")
    quantctl("--megatron", tree, "set", "--qk", "mxfp8")
    quantctl("--megatron", tree, "undo")
    assert value_of(quantctl, tree) == "mxfp4"
    quantctl("--megatron", tree, "undo")
    assert value_of(quantctl, tree) == "mxfp8"


def test_undo_takes_back_a_restore(quantctl, tree):
    quantctl("--megatron", tree, "restore")
    assert value_of(quantctl, tree) is None
    quantctl("--megatron", tree, "undo")
    assert value_of(quantctl, tree) == "hifp8"
    quantctl("--megatron", tree, "restore")
    assert value_of(quantctl, tree) is None


def test_restore_to_an_operation(quantctl, tree):
    newest, *_, oldest = operations(quantctl, tree)
    third = operations(quantctl, tree)[1]
    assert quantctl("--megatron", tree, "restore", "--to", third["id"][:10]).status == 0
    assert value_of(quantctl, tree) == "mxfp8"
    assert quantctl("--megatron", tree, "restore", "--to", newest["id"]).status == 0
    assert value_of(quantctl, tree) == "mxfp4"
    assert quantctl("--megatron", tree, "restore", "--to", oldest["id"]).status == 0
    assert value_of(quantctl, tree) is None


@pytest.mark.parametrize(("wanted", "reason"), [("zzzz", "no operation"), ("", "4 operations")])
def test_restore_to_needs_exactly_one_operation(quantctl, tree, wanted, reason):
    done = quantctl("--megatron", tree, "restore", "--to", wanted)
    assert done.status == (2 if wanted else 0) or reason in done.err
    if wanted:
        assert reason in done.err
        assert value_of(quantctl, tree) == "hifp8"


def test_an_edit_between_two_operations_is_not_lost(quantctl, tree):
    mine = (tree / ATTENTION).read_text() + "# mine\n"
    (tree / ATTENTION).write_text(mine)
    assert quantctl("--megatron", tree, "set", "--qk", "none").status == 0
    refused = quantctl("--megatron", tree, "restore")
    assert refused.status == 2
    assert "+# mine" in refused.err
    assert "# mine" in (tree / ATTENTION).read_text()
    assert quantctl("--megatron", tree, "undo").status == 0
    assert (tree / ATTENTION).read_text() == mine
    assert quantctl("--megatron", tree, "restore", "--force").status == 0
    assert "# mine" not in (tree / ATTENTION).read_text()


def test_an_upgraded_tree_is_not_downgraded_by_restore(quantctl, tree, megatron_tree):
    shutil.rmtree(tree / "megatron")
    shutil.copytree(megatron_tree("0.12.3") / "megatron", tree / "megatron")
    refused = quantctl("--megatron", tree, "restore")
    assert refused.status == 2
    assert "the files were replaced since quantctl wrote them (megatron-core 0.16.1 then, 0.12.3 now)" in refused.err
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8").status == 0
    assert quantctl("--megatron", tree, "restore").status == 0
    for file in (LAYERS, ATTENTION):
        assert (tree / file).read_bytes() == (megatron_tree("0.12.3") / file).read_bytes()


def test_a_patched_tree_without_history_says_so(quantctl, tree):
    moved = tree.with_name("moved")
    tree.rename(moved)
    done = quantctl("--megatron", moved, "restore")
    assert done.status == 2
    assert "its history is gone" in done.err
    assert "megatron-core==0.16.1" in done.err


def test_a_patched_tree_of_unknown_origin_is_never_called_restored(quantctl, tree):
    moved = tree.with_name("moved")
    tree.rename(moved)
    done = quantctl("--megatron", moved, "set", "--qk", "mxfp8")
    assert done.status == 0
    assert "quantctl restore will not know the stock bytes" in done.err
    before = (moved / ATTENTION).read_bytes()
    refused = quantctl("--megatron", moved, "restore")
    assert refused.status == 2
    assert f"the original bytes of {ATTENTION} are not known here" in refused.err
    assert (moved / ATTENTION).read_bytes() == before
    assert quantctl("--megatron", moved, "undo").status == 0
    assert value_of(quantctl, moved) == "hifp8"


def test_undo_says_what_comes_next(quantctl, tree):
    first = quantctl("--megatron", tree, "undo")
    assert "quantctl undo goes one further back" in first.err
    redo = operations(quantctl, tree)[0]["id"][:10]
    assert f"to redo it: quantctl restore --to {redo}" in first.err
    assert quantctl("--megatron", tree, "restore", "--to", redo).status == 0
    assert value_of(quantctl, tree) == "hifp8"


def test_two_worktrees_have_their_own_histories(quantctl, checkout, git):
    first = checkout("0.16.1")
    second = first.with_name("second")
    git(first, "worktree", "add", "--quiet", "--detach", str(second))
    quantctl("set", "--qk", "mxfp8", cwd=first)
    quantctl("set", "--qk", "mxfp4", cwd=second)
    assert (value_of(quantctl, first), value_of(quantctl, second)) == ("mxfp8", "mxfp4")
    assert len(operations(quantctl, first)) == len(operations(quantctl, second)) == 1
    quantctl("restore", cwd=second)
    assert value_of(quantctl, first) == "mxfp8"
    assert git(second, "status", "--porcelain") == ""


def test_two_trees_in_one_repository_have_their_own_histories(quantctl, megatron_tree, tmp_path, git):
    repository = tmp_path / "monorepo"
    for name in ("third party/a", "third party/b"):
        shutil.copytree(megatron_tree("0.16.1"), repository / name)
    git(repository, "init", "--quiet")
    git(repository, "add", "-A")
    git(repository, "commit", "--quiet", "-m", "two trees")
    for name, value in (("a", "mxfp8"), ("b", "mxfp4")):
        assert quantctl("set", "--qk", value, cwd=repository / "third party" / name).status == 0
    assert quantctl("restore", cwd=repository / "third party" / "a").status == 0
    assert value_of(quantctl, repository / "third party" / "b") == "mxfp4"
    assert len(git(repository, "for-each-ref", "refs/quantctl").splitlines()) == 2


def _detached(tree, git):
    git(tree, "checkout", "--quiet", "--detach")


def _index_lock(tree, git):
    (tree / ".git" / "index.lock").write_text("held")


def _autocrlf(tree, git):
    git(tree, "config", "core.autocrlf", "true")


def _hooks(tree, git):
    for name in ("pre-commit", "reference-transaction", "post-index-change"):
        hook = tree / ".git" / "hooks" / name
        hook.write_text("#!/bin/sh\necho ran >> ../hook-ran\nexit 1\n")
        hook.chmod(0o755)


def _fsmonitor(tree, git):
    monitor = tree / ".git" / "monitor"
    monitor.write_text("#!/bin/sh\necho ran >> hook-ran\nexit 1\n")
    monitor.chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(monitor))


def _unborn(tree, git):
    git(tree, "update-ref", "-d", "HEAD")


def _sparse(tree, git):
    git(
        tree,
        "sparse-checkout",
        "set",
        "megatron/core/transformer",
        "megatron/core/tensor_parallel",
        "megatron/core/models",
    )


def _skip_worktree(tree, git):
    git(tree, "update-index", "--skip-worktree", LAYERS)


def _read_only_git(tree, git):
    for folder, _, _ in os.walk(tree / ".git"):
        os.chmod(folder, 0o555)


SURROUNDINGS = {
    "detached HEAD": _detached,
    "somebody holds index.lock": _index_lock,
    "autocrlf": _autocrlf,
    "hooks": _hooks,
    "fsmonitor": _fsmonitor,
    "no commit yet": _unborn,
    "sparse checkout": _sparse,
    "skip-worktree": _skip_worktree,
    "read-only .git": _read_only_git,
}


@pytest.mark.parametrize("arrange", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_surroundings(quantctl, checkout, git, arrange):
    tree = checkout("0.16.1")
    arrange(tree, git)
    before = {file: (tree / file).read_bytes() for file in (LAYERS, ATTENTION)}
    for arguments in (["set", "--linear", "mxfp8"], ["check", "--expect", "linear=mxfp8"], ["restore"]):
        done = quantctl(*arguments, cwd=tree)
        assert done.status == 0, done.err
    assert {file: (tree / file).read_bytes() for file in before} == before
    assert not (tree / "hook-ran").exists()
    assert not (tree.parent / "hook-ran").exists()


def test_git_variables_of_the_caller_take_no_part(quantctl, checkout, tmp_path):
    tree = checkout("0.16.1")
    elsewhere = {"GIT_DIR": str(tmp_path / "no"), "GIT_WORK_TREE": str(tmp_path), "GIT_INDEX_FILE": str(tmp_path / "i")}
    for arguments in (["set", "--linear", "mxfp8"], ["log"], ["restore"]):
        done = quantctl(*arguments, cwd=tree, env=elsewhere)
        assert done.status == 0, done.err
    assert len(operations(quantctl, tree)) == 2
    assert not (tmp_path / "i").exists()


def test_shallow_clone_and_submodule(quantctl, checkout, tmp_path, git):
    origin = checkout("0.16.1")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{origin}", "shallow")
    git(tmp_path, "init", "--quiet", "outer")
    git(
        tmp_path / "outer",
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(origin),
        "megatron-lm",
    )
    for tree in (tmp_path / "shallow", tmp_path / "outer" / "megatron-lm"):
        before = git(tree, "status", "--porcelain")
        assert quantctl("set", "--linear", "mxfp8", cwd=tree).status == 0
        assert quantctl("restore", cwd=tree).status == 0
        assert git(tree, "status", "--porcelain") == before
        assert len(operations(quantctl, tree)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a tree to another user needs root, which CI is")
def test_a_tree_of_another_user_gets_gits_own_fix(quantctl, checkout):
    tree = checkout("0.16.1")
    shutil.chown(tree, user=12345)
    shutil.chown(tree / ".git", user=12345)
    done = quantctl("set", "--linear", "mxfp8", cwd=tree)
    assert done.status == 2
    assert f"git config --global --add safe.directory {tree}" in done.err
