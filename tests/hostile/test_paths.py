"""Trees at hostile places, in hostile surroundings of git: each command works there, or says why not in a sentence."""

from __future__ import annotations

import json
import os

import pytest
from hostile import assert_civil, run_forked
from remembered import remember_insertion
from small import small_tree

from quantctl.tree.selectors import LAYERS
from quantctl.tree.state import plan, read_state

DEEP = "/".join(["d" * 200] * 12)
PLACES = {
    "spaces": "a tree of mine",
    "newline": "two\nlines",
    "newline at the end": "tree\n",
    "carriage return": "car\rriage",
    "U+2028": "line\u2028separator",
    "record separator": "record\x1eseparator",
    "no UTF-8": os.fsdecode(b"caf\xe9-\xff\xfe"),
    "leading dash": "-rf",
    "leading dashes": "--megatron",
    "quotes": 'it\'s "quoted"',
    "backslash": "back\\slash\\n",
    "dollar and backtick": "$(touch hit)`touch hit`",
    "glob": "[a]*?{b,c}",
    "pathspec magic": ":(exclude)x",
    "tilde": "~root",
    "colon": "a:b",
    "percent and braces": "%s{0}%(x)s",
    "escape sequence": "\x1b[31mred\x07",
    "own data line": "quantctl-operation: {}",
    "emoji": "\U0001f525模型",
    "long": DEEP,
    "ends like a ref lock": "x.lock",
    "dots": "..a..b..",
}
EVERYWHERE = ("no UTF-8", "newline", "long")
"""Places that are tried outside git and as a folder of a larger repository, too."""
CASES = {
    f"{name}, {kind}": (place, kind) for name, place in PLACES.items() for kind in ("checkout", "package", "inside")
}
CASES = {name: case for name, case in CASES.items() if case[1] == "checkout" or name.startswith(EVERYWHERE)}


def make_checkout(git, root):
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "stock")


def go_round(root) -> list[int]:
    """Every command once; the exit statuses. The tree holds in the end what it held."""
    stock = (root / LAYERS).read_bytes()
    trained = ["exec", "--mode", "bf16", "--run-dir", root.parent / "runs", "--", "true"]
    statuses = []
    for arguments in (["set", "--linear", "mxfp8"], ["check"], ["--json", "log"], ["undo"], trained, ["restore"]):
        ended = run_forked(arguments, root)
        assert_civil(ended)
        statuses.append(ended.status)
        if "--json" in arguments and ended.status == 0:
            assert [operation["kind"] for operation in json.loads(ended.out)["operations"]] == ["set"]
    assert (root / LAYERS).read_bytes() == stock
    assert not [name for name in os.listdir((root / LAYERS).parent) if name.endswith(".quantctl")]
    return statuses


WORKS = [0, 0, 0, 0, 1, 0]
"""The run used no megatron, and exec says so."""
REFUSED = [2, 2, 2, 2, 2, 2]


@pytest.fixture
def stock(megatron_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # what the disk keeps is no matter here, and waiting for it is most of the time
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    remember_insertion()
    state = read_state(megatron_tree("0.16.1"))
    plan(state, {"linear": "mxfp8"})  # remembered for the forks
    return megatron_tree("0.16.1")


@pytest.mark.parametrize(("place", "kind"), CASES.values(), ids=CASES)
def test_places(stock, tmp_path, git, place, kind):
    root = tmp_path / "base" / place
    root.mkdir(parents=True)
    small_tree(stock, root)
    if kind != "package":
        make_checkout(git, root if kind == "checkout" else tmp_path / "base")
    assert go_round(root) == WORKS
    assert not list(tmp_path.rglob("hit"))
