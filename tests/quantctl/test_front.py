"""The command line as a whole: where its common options stand, its help, `python -m quantctl`, completion in bash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import quantctl as package
from quantctl.cli import COMMANDS, GROUPS, cli
from quantctl.commands._options import BashComplete
from quantctl.history.transaction import Change, open_tree
from quantctl.tree.tree import Tree

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_json_and_the_tree_stand_before_or_behind(called, megatron_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = megatron_tree("0.16.1")
    orders = (
        ("--json", "--megatron", tree, "check"),
        ("check", "--json", "--megatron", tree),
        ("--megatron", tree, "check", "--json"),
        ("--megatron", tmp_path, "check", "--megatron", tree, "--json"),
    )
    told = [called(*order) for order in orders]
    assert {done.status for done in told} == {0}
    assert json.loads(told[0].out)["tree"] == str(tree)
    assert len({done.out for done in told}) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_both_and_explains_itself(command, called):
    done = called(command, "--help")
    assert done.status == 0
    assert all(word in done.out for word in ("--json", "--megatron PATH", f"Usage: quantctl {command}"))
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


def test_what_follows_a_command_of_exec_is_its_own(called, megatron_tree, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("quantctl.runs.execution.execute", lambda *words: seen.append(words) or 0)
    done = called("exec", "--megatron", megatron_tree("0.16.1"), "--mode", "bf16", "program", "--json", "--mode", "x")
    assert done.status == 0
    assert seen[0][2] == ("program", "--json", "--mode", "x")


def test_help_names_each_command_once_in_its_group(called):
    text = called("--help").out
    for group, commands in GROUPS.items():
        part = text.partition(f"\n{group}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in part.splitlines() if line[2:3] != " "] == list(commands)


def test_the_format_syntax_is_explained_once(called):
    for command in ("set", "exec", "smoke", "lint", "launch"):
        text = " ".join(called(command, "--help").out.split())
        assert text.count("quantctl list formats") == 1
        assert "Format spec" not in text
    assert "mxfp8\tscale: rceil|floor|even|ceil; elem: e4m3|e5m2" in called("list", "formats").out


def test_the_installed_package_is_not_changed_unsaid(called, megatron_tree, tmp_path, monkeypatch):
    def stop(_: Tree) -> None:
        raise package.QuantctlError("stopped here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quantctl.tree.tree._installed_root", lambda: megatron_tree("0.16.1"))
    monkeypatch.setattr("quantctl.commands._change.open_tree", stop)
    first, second, third = called("set", "--linear", "mxfp8").err.splitlines()
    assert first.startswith("no tree was named and none is around here: this changes the installed one; quantctl undo")
    assert (second.startswith("tree: "), third) == (True, "quantctl: stopped here")


def test_as_a_module_and_its_version(tmp_path):
    words = [sys.executable, "-m", "quantctl"]
    done = subprocess.run([*words, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"quantctl, version {package.__version__}\n")
    assert (Path(package.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def changed_tree(megatron_tree, tmp_path_factory):
    """A tree and the name of the one operation in its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SUPPORT)
        from small import small_tree
    small = small_tree(megatron_tree("0.16.1"), tmp_path_factory.mktemp("changed") / "tree")
    tree = Tree(small.resolve(), "--megatron")
    file = "megatron/core/package_info.py"
    raw = (tree.root / file).read_bytes()
    with open_tree(tree) as session:
        operation = session.apply([Change(file, raw, raw + b"# changed\n", fresh=True)], "set", "quantctl set", {})
    assert operation is not None
    return tree.root, operation.short


COMPLETED = {
    "rep": ["report"],
    "set --linear hi": ["hifp8", "hifp4"],
    "set --linear mxfp8:scale=f": ["mxfp8:scale=floor"],
    "set --linear mxfp8:scale=floor,elem=e5": ["mxfp8:scale=floor,elem=e5m2"],
    "set --linear mxfp4:gr": ["mxfp4:gradient."],
    "set --qk mxfp4:round=away,q": ["mxfp4:round=away,query."],
    "set --linear mxfp4:wgrad.in": ["mxfp4:wgrad.input."],
    "set --linear mxfp4:wgrad.input.round=s": ["mxfp4:wgrad.input.round=stochastic"],
    "set --linear mxfp4;sh": ["mxfp4; shared_experts"],
    "set --linear mxfp4;mlp:mxfp8:el": ["mxfp4;mlp:mxfp8:elem=e4m3", "mxfp4;mlp:mxfp8:elem=e5m2"],
    "set --attention f": ["fused"],
    "run --model ll": ["llama31-8b", "llama32-1b"],
    "run --mode bf16,FA_linear_h": ["bf16,FA_linear_hifp8", "bf16,FA_linear_hifp4"],
    "sweep --training-config sm": ["smoke"],
    "inspect x.pt --spec nv": ["nvfp4"],
    "list fo": ["formats"],
    "--megatron TREE restore --to ": ["ID"],
    "restore --megatron TREE --to ": ["ID"],
    "--megatron /nowhere restore --to ": [],
}


@pytest.mark.parametrize("line", COMPLETED)
def test_completion(line, changed_tree):
    tree, operation = changed_tree
    *words, last = line.replace("TREE", str(tree)).split(" ")
    complete = ShellComplete(cli, {}, "quantctl", "_QUANTCTL_COMPLETE")
    expected = [name.replace("ID", operation) for name in COMPLETED[line]]
    assert [item.value for item in complete.get_completions(words, last)] == expected


# bash breaks words at : and =, and replaces the last piece only
PIECES = {
    "quantctl set --linear mxfp8:scale=f": ["floor"],
    "quantctl set --linear=mxfp8:scale=floor,elem=e5": ["e5m2"],
    "quantctl set --linear=hi": ["hifp8", "hifp4"],
    "quantctl set --attention ": ["unfused", "fused", "auto"],
    "quantctl run --mode bf16,FA_linear_h": ["bf16,FA_linear_hifp8", "bf16,FA_linear_hifp4"],
}


@pytest.mark.parametrize("line", PIECES)
def test_what_bash_puts_in_place_of_its_own_pieces(line, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_WORDBREAKS", " \"'><=;|&(:")
    found = BashComplete(cli, {}, "quantctl", "_QUANTCTL_COMPLETE").complete()
    assert found.splitlines() == [f"plain,{word}" for word in PIECES[line]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_bash(tmp_path):
    script = """
    eval "$(_QUANTCTL_COMPLETE=bash_source quantctl)"
    COMP_LINE='quantctl set --linear mxfp8:scale=f and more' COMP_POINT=35
    COMP_WORDS=(quantctl set --linear mxfp8 : scale = f) COMP_CWORD=7
    _quantctl_completion quantctl
    echo "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("floor\n", "")
