"""check, patch, set, restore and log on real trees: a checkout and an unpacked package."""

from __future__ import annotations

import filecmp
import json
import os
import py_compile
import stat
import subprocess
from pathlib import Path

import pytest
from warm_python import python

from quantctl.tree.selectors import ATTENTION, LAYERS

TAG = "megatron/core/models/common/language_module/language_module.py"


def same_files(left, right) -> bool:
    """`diff -r` finds nothing."""
    comparison = filecmp.dircmp(left, right, ignore=[])
    pending = [comparison]
    while pending:
        level = pending.pop()
        if level.left_only or level.right_only or level.funny_files:
            return False
        if any(not filecmp.cmp(f"{level.left}/{f}", f"{level.right}/{f}", shallow=False) for f in level.common_files):
            return False
        pending.extend(level.subdirs.values())
    return True


def user_view(git, tree) -> dict[str, str]:
    """All that quantctl must leave alone in a user's repository."""
    return {
        "status": git(tree, "status", "--porcelain"),
        "stash": git(tree, "stash", "list"),
        "branches": git(tree, "branch", "-a", "-v"),
        "tags": git(tree, "tag"),
        "head": git(tree, "rev-parse", "HEAD"),
        "index": git(tree, "ls-files", "--stage"),
        "reflog": git(tree, "reflog"),
        "config": git(tree, "config", "--local", "--list"),
    }


def test_set_check_restore_in_a_package(quantctl, stock_copy, megatron_tree, documented):
    tree = stock_copy("0.16.1")
    done = quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--qk", "mxfp4")
    assert done.status == 0, done.err
    lines = dict(row.split(maxsplit=1) for row in done.out.splitlines())
    assert "mxfp8" in lines["linear"]
    assert "mxfp4" in lines["qk"]
    state = json.loads(quantctl("--megatron", tree, "--json", "check").out)
    documented("check", state)
    assert state["megatron_core"] == "0.16.1"
    assert state["problems"] == []
    for role, value in {"linear": "mxfp8", "lm_head": "none", "qk": "mxfp4", "pv": "none"}.items():
        place = state["selectors"][role]
        assert place["value"] == value
        line = (tree / place["file"]).read_text().splitlines()[place["line"] - 1]
        assert line == f"custom_quant_type_{role} = '{value}'"
    assert quantctl("--megatron", tree, "restore").status == 0
    assert same_files(tree, megatron_tree("0.16.1"))


def test_in_a_checkout_the_users_git_is_untouched(quantctl, checkout, megatron_tree, git, documented):
    tree = checkout("0.16.1")
    before = user_view(git, tree)
    for arguments in (["set", "--mode", "FA_linear_mxfp8"], ["set", "--qk", "none"], ["check"], ["log"], ["restore"]):
        done = quantctl(*arguments, cwd=tree)
        assert done.status == 0, done.err
    assert user_view(git, tree) == before
    (reference,) = git(tree, "for-each-ref", "--format=%(refname)", "refs/quantctl").split()
    log = json.loads(quantctl("--json", "log", cwd=tree).out)
    documented("log", log)
    assert log["ref"] == reference
    assert [o["id"] for o in log["operations"]] == git(tree, "log", "--format=%H", reference).split()
    assert [o["kind"] for o in log["operations"]] == ["restore", "set", "set"]
    stock = (megatron_tree("0.16.1") / LAYERS).read_text()
    assert git(tree, "show", f"{log['operations'][-1]['id']}:before/{LAYERS}") == stock


def test_dirty_files_come_back_dirty(quantctl, checkout):
    tree = checkout("0.12.3")
    edited = (tree / LAYERS).read_bytes().replace(b"\n", b"\r\n") + b"# mine\r\n"
    (tree / LAYERS).write_bytes(edited)
    (tree / LAYERS).chmod(0o640)
    assert quantctl("set", "--linear", "hifp8", cwd=tree).status == 0
    assert stat.S_IMODE((tree / LAYERS).stat().st_mode) == 0o640
    assert quantctl("restore", cwd=tree).status == 0
    assert (tree / LAYERS).read_bytes() == edited
    assert stat.S_IMODE((tree / LAYERS).stat().st_mode) == 0o640


def test_restore_gives_the_mode_back(quantctl, stock_copy, documented):
    tree = stock_copy("0.16.1")
    (tree / LAYERS).chmod(0o600)
    documented("set, patch", json.loads(quantctl("--megatron", tree, "--json", "patch").out))
    (tree / LAYERS).chmod(0o755)
    assert quantctl("--megatron", tree, "restore").status == 0
    assert stat.S_IMODE((tree / LAYERS).stat().st_mode) == 0o600


def test_set_twice_changes_nothing(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    quantctl("--megatron", tree, "set", "--mode", "mxfp4")
    before = {path: (tree / path).stat() for path in (LAYERS, ATTENTION, TAG)}
    again = quantctl("--megatron", tree, "set", "--mode", "mxfp4")
    assert again.status == 0
    assert "nothing to change" in again.err
    for path, stats in before.items():
        assert (tree / path).stat().st_ino == stats.st_ino


def test_diff_and_check_change_nothing(quantctl, stock_copy, megatron_tree):
    tree = stock_copy("0.16.1")
    shown = quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--diff")
    assert shown.status == 0
    assert "+custom_quant_type_linear = 'mxfp8'" in shown.out
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--check").status == 1
    assert same_files(tree, megatron_tree("0.16.1"))
    applied = subprocess.run(["git", "apply", "-"], input=shown.out, cwd=tree, text=True, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--check").status == 0


def test_edits_since_are_refused_and_kept_when_forced(quantctl, checkout, git):
    tree = checkout("0.16.1")
    stock = (tree / LAYERS).read_bytes()
    quantctl("set", "--linear", "mxfp8", cwd=tree)
    mine = (tree / LAYERS).read_bytes() + b"# my later work\n"
    (tree / LAYERS).write_bytes(mine)
    refused = quantctl("restore", cwd=tree)
    assert refused.status == 2
    assert "+# my later work" in refused.err
    assert "--force" in refused.err
    assert (tree / LAYERS).read_bytes() == mine
    forced = quantctl("restore", "--force", cwd=tree)
    assert forced.status == 0, forced.err
    assert (tree / LAYERS).read_bytes() == stock
    kept = next(line for line in forced.err.splitlines() if line.startswith("kept: "))
    shown = subprocess.run(kept.removeprefix("kept: "), shell=True, capture_output=True, check=True)
    assert shown.stdout == mine


def test_restore_on_a_stock_tree_says_so(quantctl, stock_copy):
    done = quantctl("--megatron", stock_copy("0.16.1"), "restore")
    assert done.status == 0
    assert "nothing to restore" in done.err


REFUSED = {
    "unknown format": (["set", "--linear", "mxpf8"], "unknown format 'mxpf8'"),
    "unknown option": (["set", "--linear", "mxfp8:size=3"], "'size=3' is no option of mxfp8"),
    "unknown way of attention": (["set", "--attention", "flash"], "unknown attention 'flash'"),
    "a format for the way of attention": (["check", "--expect", "attention=mxfp8"], "attention: 'mxfp8' is unknown"),
    "no selector": (["set"], "no selector was given"),
    "unknown mode": (["set", "--mode", "FA"], "unknown mode 'FA'"),
    "unknown flag": (["set", "--linera", "mxfp8"], "did you mean --linear?"),
    "unknown command": (["sett"], "did you mean set?"),
    "expectation of no selector": (["check", "--expect", "lin=mxfp8"], "unknown selector 'lin'"),
}


@pytest.mark.parametrize(("arguments", "reason"), REFUSED.values(), ids=REFUSED)
def test_bad_input_changes_nothing(quantctl, megatron_tree, arguments, reason):
    tree = megatron_tree("0.16.1")
    before = (tree / LAYERS).stat().st_mtime_ns
    done = quantctl("--megatron", tree, *arguments)
    assert done.status == 2
    assert reason in done.err
    assert done.out == ""
    assert (tree / LAYERS).stat().st_mtime_ns == before


def test_no_tree_there(quantctl, tmp_path):
    done = quantctl("--megatron", tmp_path, "check")
    assert done.status == 2
    assert f"{tmp_path}, which holds no megatron/core" in done.err


def test_one_unpatchable_file_leaves_all_alone(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    attention = tree / ATTENTION
    attention.write_text(attention.read_text().replace("torch.bmm(", "torch.matmul("))
    before = {path: (tree / path).read_bytes() for path in (LAYERS, ATTENTION, TAG)}
    done = quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--pv", "mxfp8")
    assert done.status == 2
    assert "context = torch.bmm(P, V)" in done.err
    assert {path: (tree / path).read_bytes() for path in before} == before


EXPECTATIONS = {
    "met": ("linear=mxfp8:scale=floor,round=away,qk=none", 0),
    "other option": ("linear=mxfp8", 1),
    "other format": ("qk=mxfp4", 1),
    "the way of attention": ("attention=auto,qk=none", 0),
    "another way of attention": ("attention=unfused", 1),
}


@pytest.mark.parametrize(("expected", "status"), EXPECTATIONS.values(), ids=EXPECTATIONS)
def test_check_expect(quantctl, stock_copy, expected, status):
    tree = stock_copy("0.16.1")
    quantctl("--megatron", tree, "set", "--linear", "mxfp8:round=away,scale=floor", "--attention", "auto")
    assert quantctl("--megatron", tree, "check", "--expect", expected).status == status


def test_check_reports_unknown_values_and_half_patches(quantctl, stock_copy, megatron_tree):
    tree = stock_copy("0.16.1")
    quantctl("--megatron", tree, "patch")
    layers = tree / LAYERS
    layers.write_text(layers.read_text().replace("_linear = 'none'", "_linear = 'mxpf8'"))
    attention = tree / ATTENTION
    attention.write_text(attention.read_text().replace("_impl = 'unfused'", "_impl = 'none'"))
    (tree / TAG).write_bytes((megatron_tree("0.16.1") / TAG).read_bytes())
    done = quantctl("--megatron", tree, "check")
    assert done.status == 1
    assert "'mxpf8', which is no known format spec" in done.err
    assert "attention is 'none', which is none of unfused, fused, auto" in done.err
    assert "patch lm_head is missing" in done.err


def test_new_value_runs_within_the_same_second(quantctl, stock_copy):
    """mxfp8 and mxfp4 are equally long: bytecode checked by size and whole seconds must not survive."""
    tree = stock_copy("0.16.1")
    read = "from importlib import import_module as i; import sys; sys.path.insert(0, sys.argv[1]); "
    read += "print(i('megatron.core.transformer.dot_product_attention').custom_quant_type_qk)"
    seen = []
    for value in ("mxfp8", "mxfp4", "mxfp8"):
        assert quantctl("--megatron", tree, "set", "--qk", value).status == 0
        done = python("-c", read, tree, env=os.environ)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.strip())
    assert seen == ["mxfp8", "mxfp4", "mxfp8"]


def test_other_hard_links_keep_their_bytes(quantctl, stock_copy, tmp_path):
    tree = stock_copy("0.16.1")
    link = tmp_path / "installer-cache.py"
    os.link(tree / LAYERS, link)
    stock = link.read_bytes()
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8").status == 0
    assert link.read_bytes() == stock


def test_bytecode_that_python_never_checks_is_removed(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    cached = py_compile.compile(
        str(tree / ATTENTION), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    assert quantctl("--megatron", tree, "set", "--qk", "mxfp8").status == 0
    assert not Path(cached).exists()
