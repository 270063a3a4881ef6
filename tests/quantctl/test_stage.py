"""Staged trees: what is copied, when a copy is reused, and that the source is left alone."""

from __future__ import annotations

import shutil

import pytest

from quantctl.selectors import ATTENTION, LAYERS
from quantctl.stage import source_files, stage, staged_root
from quantctl.state import read_state
from quantctl.tree import Tree


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
