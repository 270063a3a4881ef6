"""Hostile surroundings of git: configurations, owners, links. Each command works, or refuses in a sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hostile import assert_civil, run_forked
from remembered import remember_insertion
from small import small_tree

from quantctl.tree.selectors import ATTENTION, LAYERS
from quantctl.tree.state import plan, read_state

OWNER = 12345
ROUND = (["set", "--linear", "mxfp8"], ["check"], ["log"], ["undo"], ["restore"])
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user needs root, which CI is")


@pytest.fixture
def root(megatron_tree, tmp_path, git, monkeypatch):
    """A checkout, with a home and a state directory of the test's own."""
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    remember_insertion()
    plan(read_state(megatron_tree("0.16.1")), {"linear": "mxfp8"})  # remembered for the forks
    root = small_tree(megatron_tree("0.16.1"), tmp_path / "tree")
    make_checkout(git, root)
    return root


def make_checkout(git, root, *options):
    git(root, "init", "--quiet", "--initial-branch=main", *options)
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "stock")


def no_git(root):
    shutil.rmtree(root / ".git")


def sha256(root, git):
    no_git(root)
    make_checkout(git, root, "--object-format=sha256")


def explicit_bare(root, git):
    no_git(root)
    (root.parent / "HOME" / ".gitconfig").write_text("[safe]\n\tbareRepository = explicit\n")


def sha256_by_default(root, git):
    no_git(root)
    os.environ["GIT_DEFAULT_HASH"] = "sha256"


def broken_home(root, git):
    (root.parent / "HOME" / ".gitconfig").write_text("[core\n")


def broken_config(root, git):
    (root / ".git" / "config").write_text("rubbish [[\n")


def unknown_extension(root, git):
    git(root, "config", "core.repositoryFormatVersion", "1")
    git(root, "config", "extensions.tomorrow", "true")


def broken_gitfile(root, git):
    no_git(root)
    (root / ".git").write_text("rubbish\n")


def moved_worktree(root, git):
    no_git(root)
    (root / ".git").write_text(f"gitdir: {root.parent}/gone/.git/worktrees/tree\n")


def inside_a_bare_repository(root, git):
    no_git(root)
    git(root, "init", "--quiet", "--bare", ".")


def ignored(root, git):
    (root / ".git" / "info" / "exclude").write_text("*\n")


def replaced_objects(root, git):
    blob = git(root, "rev-parse", f"HEAD:{LAYERS}").strip()
    git(root, "replace", blob, git(root, "rev-parse", f"HEAD:{ATTENTION}").strip())


def latin1(root, git):
    git(root, "config", "i18n.commitEncoding", "iso-8859-1")
    git(root, "config", "i18n.logOutputEncoding", "utf-16")


def links_within(root, git):
    real = root / "megatron" / "core" / "real_layers.py"
    (root / LAYERS).rename(real)
    (root / LAYERS).symlink_to(real)


def link_out(root, git):
    real = root.parent / "cache_of_an_installer.py"
    (root / LAYERS).rename(real)
    (root / LAYERS).symlink_to(real)


def loop(root, git):
    (root / LAYERS).unlink()
    (root / LAYERS).symlink_to("layers.py")


def folder(root, git):
    (root / LAYERS).unlink()
    (root / LAYERS).mkdir()


WORKS, REFUSED = {0}, {2}
SURROUNDINGS = {
    # what is arranged, how every command ends, what a refusal names
    "SHA-256": (sha256, WORKS, ""),
    "bare repositories named only": (explicit_bare, WORKS, ""),
    "SHA-256 by default": (sha256_by_default, WORKS, ""),
    "broken ~/.gitconfig": (broken_home, REFUSED, "bad config line 1 in file .*/.gitconfig"),
    "broken .git/config": (broken_config, REFUSED, "bad config line 1 in file"),
    "an extension of tomorrow": (unknown_extension, REFUSED, "tomorrow"),
    "rubbish for .git": (broken_gitfile, REFUSED, "invalid gitfile format"),
    "worktree of a repository that is gone": (moved_worktree, WORKS, ""),
    "inside a bare repository": (inside_a_bare_repository, WORKS, ""),
    "everything ignored": (ignored, WORKS, ""),
    "replace refs": (replaced_objects, WORKS, ""),
    "commits in Latin-1": (latin1, WORKS, ""),
    "a link within the tree": (links_within, WORKS, ""),
    "a link that leads to itself": (loop, REFUSED, "layers.py"),
    "a folder for a file": (folder, REFUSED, "layers.py"),
}


@pytest.mark.parametrize(("arrange", "statuses", "said"), SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_surroundings(root, git, monkeypatch, arrange, statuses, said):
    monkeypatch.delenv("GIT_DEFAULT_HASH", raising=False)
    arrange(root, git)
    monkeypatch.setenv("GIT_DEFAULT_HASH", os.environ.get("GIT_DEFAULT_HASH", "sha1"))
    link = (root / LAYERS).is_symlink()
    stock = (root / LAYERS).read_bytes() if statuses == WORKS else b""
    for arguments in ROUND:
        ended = run_forked(arguments, root)
        assert_civil(ended)
        if said == "layers.py" and arguments[0] in ("log", "undo", "restore"):
            continue  # they need no look at that file
        assert {ended.status} == statuses, (arguments, ended.err)
        if said:
            assert re.search(said, ended.err), ended.err
    assert (root / LAYERS).is_symlink() == link
    if statuses == WORKS:
        assert (root / LAYERS).read_bytes() == stock


def test_a_file_that_an_installer_links_out_of_the_tree_is_left_alone(root, git):
    """Its cache is shared by other environments."""
    link_out(root, git)
    real = (root / LAYERS).resolve()
    stock = real.read_bytes()
    ended = run_forked(["set", "--linear", "mxfp8"], root)
    assert_civil(ended, 2)
    assert f"is a link to {real}, which is not in the tree" in ended.err
    assert real.read_bytes() == stock
    assert run_forked(["check"], root).status == 0


@pytest.fixture
def reachable():
    """A folder that anybody can get to: pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder).resolve()


def as_owner(root, *arguments) -> subprocess.CompletedProcess:
    """The owner's own git."""
    return subprocess.run(
        ["git", *arguments], cwd=root, user=OWNER, group=OWNER, extra_groups=[], capture_output=True, text=True
    )


@ROOT_ONLY
def test_sudo_leaves_the_checkout_to_its_owner(root, monkeypatch, reachable):
    root = root.rename(reachable / "tree")
    for path in (root, *root.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    monkeypatch.setenv("SUDO_UID", str(OWNER))
    for arguments in ROUND:
        ended = run_forked(arguments, root)
        assert_civil(ended, 0)
        strangers = [path for path in (root, *root.rglob("*")) if path.lstat().st_uid != OWNER]
        assert strangers == [], arguments
    assert as_owner(root, "status", "--porcelain").stdout == ""
    assert as_owner(root, "fsck", "--strict").returncode == 0
    assert as_owner(root, "gc", "--prune=now").returncode == 0


@ROOT_ONLY
def test_where_the_owner_cannot_get_to_the_history_is_roots(root, tmp_path, monkeypatch):
    for path in (root, *root.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("SUDO_UID", str(OWNER))
    for arguments in ROUND:
        assert_civil(run_forked(arguments, root), 0)
    assert not [path for path in (root, *root.rglob("*")) if path.lstat().st_uid != OWNER]
    made = [path for path in (tmp_path / "XDG_STATE_HOME").rglob("*") if path.is_dir()]
    assert (tmp_path / "XDG_STATE_HOME" / "quantctl").stat().st_mode & 0o077 == 0
    assert made
