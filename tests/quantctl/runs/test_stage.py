"""Staged trees: what is copied, when a copy is reused, and that the source is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from quantctl.runs import stage as stage_module
from quantctl.runs.stage import _LARGEST_SOURCE, in_use, prune, source_files, stage, staged_copy, staged_root
from quantctl.tree.selectors import ATTENTION, LAYERS
from quantctl.tree.state import read_state
from quantctl.tree.tree import Tree


def as_tree(path) -> Tree:
    return Tree(path.resolve(), "--megatron")


def test_a_checkout_is_copied_as_it_is_on_disk(checkout, git):
    root = checkout("0.16.1")
    (root / ".gitignore").write_text("__pycache__/\n/data/\n")
    (root / "data").mkdir()
    (root / "data" / "huge.bin").write_text("ignored")
    (root / "untracked.py").write_text("x = 1\n")
    (root / LAYERS).write_text((root / LAYERS).read_text() + "# dirty\n")
    (root / "megatron/core/package_info.py").rename(root / "megatron/core/package_info2.py")
    (root / "link.py").symlink_to("untracked.py")
    staged = stage(as_tree(root), {"qk": "mxfp8"})
    assert (staged / "untracked.py").read_text() == "x = 1\n"
    assert (staged / "link.py").is_symlink()
    assert (staged / LAYERS).read_text().endswith("# dirty\n")
    assert not (staged / "data").exists()
    assert not (staged / ".git").exists()
    assert not (staged / "megatron/core/package_info.py").exists()
    assert read_state(staged).values()["qk"] == "mxfp8"
    assert read_state(root).values() == {}
    assert "refs/quantctl" not in git(root, "for-each-ref")


COPIED = {
    "tools/mine.py": True,
    "tools/Makefile": True,
    "kernels/fast.CU": True,
    "checkpoints/iter_0000001/model_optim_rng.pt": False,
    "data/text_document.bin": False,
    "data/text.jsonl": False,
    "data/huge.json": False,
    "data/tracked.bin": True,
}


def test_of_untracked_files_only_what_can_be_source(checkout, git):
    root = checkout("0.16.1")
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    os.truncate(root / "data/huge.json", _LARGEST_SOURCE + 1)
    git(root, "add", "data/tracked.bin")
    (root / ".gitignore").write_text("*.so\n")
    compiled = "megatron/core/datasets/helpers_cpp.mine.so"
    for name in (compiled, "megatron/core/other.so"):
        (root / name).touch()
    names = {str(file) for file in source_files(as_tree(root))}
    assert {name: name in names for name in COPIED} == COPIED
    assert compiled in names
    assert "megatron/core/other.so" not in names


def test_a_read_only_tree_is_staged(stock_copy):
    """Root may write to any file: that the copy was made writable first is seen in its mode."""
    root = stock_copy("0.16.1")
    for file in (LAYERS, ATTENTION):
        (root / file).chmod(0o444)
    staged = stage(as_tree(root), {"qk": "mxfp8"})
    assert [(tree / ATTENTION).stat().st_mode & 0o777 for tree in (root, staged)] == [0o444, 0o644]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_tree_is_staged_and_none_removed(stock_copy, monkeypatch, tmp_path, number):
    def flock(*_: object) -> None:
        raise OSError(number, "no locks")

    tree = as_tree(stock_copy("0.16.1"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fcntl, "flock", flock)
    staged = stage(tree, {"qk": "mxfp8"})
    with in_use(staged):
        assert prune() == []
    assert prune() == []
    assert (staged / LAYERS).exists()


def test_nfs_gives_exclusive_locks_only_on_what_may_be_written(stock_copy, monkeypatch, tmp_path):
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if how & fcntl.LOCK_EX and not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, "not open for writing")
        real(descriptor, how)

    tree = as_tree(stock_copy("0.16.1"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fcntl, "flock", flock)
    staged = stage(tree, {"qk": "mxfp8"})
    draft = staged_root() / ".draft-killed"
    draft.mkdir()
    assert prune() == [staged]
    assert draft.exists()


def test_of_a_downloaded_archive_the_programs_come_too(stock_copy):
    root = stock_copy("0.16.1")
    (root / "pretrain_gpt.py").write_text("import gpt_builders\n")
    (root / "gpt_builders.py").touch()
    (root / "data").mkdir()
    (root / "data" / "huge.bin").touch()
    staged = stage(as_tree(root), {"qk": "mxfp8"})
    assert {path.name for path in staged.iterdir()} >= {"pretrain_gpt.py", "gpt_builders.py", "megatron"}
    assert not (staged / "data").exists()


def test_submodules_and_shallow_clones(checkout, tmp_path, git):
    origin = checkout("0.16.1")
    allow = ("-c", "protocol.file.allow=always")
    git(tmp_path, "init", "--quiet", "library")
    (tmp_path / "library" / "helper.py").write_text("y = 2\n")
    git(tmp_path / "library", "add", "-A")
    git(tmp_path / "library", "commit", "--quiet", "-m", "helper")
    git(origin, *allow, "submodule", "--quiet", "add", str(tmp_path / "library"), "third_party")
    git(origin, "commit", "--quiet", "-am", "submodule")
    (origin / "third_party" / "new.py").write_text("z = 3\n")
    staged = stage(as_tree(origin), {"linear": "mxfp8"})
    assert (staged / "third_party" / "helper.py").read_text() == "y = 2\n"
    assert (staged / "third_party" / "new.py").read_text() == "z = 3\n"
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{origin}", "shallow")
    assert (stage(as_tree(tmp_path / "shallow"), {"linear": "mxfp8"}) / LAYERS).exists()


def test_site_packages_inside_a_checkout_are_a_package(megatron_tree, tmp_path, git):
    """An ignored virtual environment of a repository: the package is copied, not the repository."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("venv/\n")
    site = tmp_path / "venv" / "site-packages"
    shutil.copytree(megatron_tree("0.16.1") / "megatron", site / "megatron")
    (site / "other_package.py").write_text("")
    files = source_files(as_tree(site))
    assert files
    assert all(file.parts[0] == "megatron" for file in files)
    assert not any("__pycache__" in file.parts for file in files)


KEYS = {
    "same choice": ({"qk": "mxfp8"}, {"qk": "mxfp8"}, None, True),
    "same meaning": ({"qk": "mxfp8"}, {"qk": "mxfp8:scale=rceil"}, None, True),
    "other choice": ({"qk": "mxfp8"}, {"qk": "mxfp4"}, None, False),
    "edited source": ({"qk": "mxfp8"}, {"qk": "mxfp8"}, b"# edit\n", False),
}


@pytest.mark.parametrize(("first", "second", "edit", "same"), KEYS.values(), ids=KEYS)
def test_reused_for_the_same_source_and_choice_only(stock_copy, first, second, edit, same):
    root = stock_copy("0.16.1")
    before = stage(as_tree(root), first)
    marker = (before / ATTENTION).stat()
    if edit:
        (root / LAYERS).write_bytes((root / LAYERS).read_bytes() + edit)
    after = stage(as_tree(root), second)
    assert (after == before) == same
    assert (before / ATTENTION).stat() == marker
    assert not list(staged_root().glob(".draft-*"))


def test_a_file_edited_between_hashing_and_copying_poisons_no_name(stock_copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, filled = stock_copy("0.16.1"), stage_module._fill
    edited = root / "megatron/core/package_info.py"
    before = edited.read_bytes()

    def fill(*arguments: object) -> None:
        edited.write_bytes(before + b"# edit\n")
        filled(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "_fill", fill)
        first = stage(as_tree(root), {"qk": "mxfp8"})
    assert stage(as_tree(root), {"qk": "mxfp8"}) == first
    edited.write_bytes(before)
    second = stage(as_tree(root), {"qk": "mxfp8"})
    staged = [(tree / "megatron/core/package_info.py").read_bytes() for tree in (first, second)]
    assert staged == [before + b"# edit\n", before]


class Killed(BaseException):
    """Stands for SIGKILL."""


def half(folder: Path, **_: object) -> None:
    """What shutil.rmtree has done when it is killed."""
    next(Path(folder).rglob("*.py")).unlink()
    raise Killed


def test_prune_killed_half_way_leaves_nothing_that_counts(stock_copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree = as_tree(stock_copy("0.16.1"))
    staged = stage(tree, {"qk": "mxfp8"})
    files = sorted(path.relative_to(staged) for path in staged.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            prune()
    assert not staged.exists()
    assert stage(tree, {"qk": "mxfp8"}) == staged
    assert sorted(path.relative_to(staged) for path in staged.rglob("*")) == files
    # what an earlier version left of one
    (staged / ".quantctl-staged.json").unlink()
    (staged / LAYERS).unlink()
    assert stage(tree, {"qk": "mxfp8"}) == staged
    assert sorted(path.relative_to(staged) for path in staged.rglob("*")) == files
    with in_use(staged):
        assert staged not in prune()
        assert [path.name for path in staged_root().iterdir()] == [staged.name]
    assert prune() == [staged]
    assert list(staged_root().iterdir()) == []


def test_a_tree_pruned_before_it_is_held_is_staged_again(stock_copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree, pruned = as_tree(stock_copy("0.16.1")), []

    def once(*arguments: object) -> Path:
        found = stage(*arguments)
        pruned.extend([] if pruned else prune())
        return found

    monkeypatch.setattr(stage_module, "stage", once)
    with staged_copy(tree, {"qk": "mxfp8"}) as staged:
        assert pruned == [staged]
        assert (staged / LAYERS).exists()
        assert prune() == []
