"""Flags, defaults and choices of a fork, read where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantctl.lint.case import Setting
from quantctl.lint.judge import judge_command
from quantctl.lint.own_flags import options

COMMAND = ["torchrun", "pretrain_gpt.py", "--num-layers", "2"]
LOCAL = "group.add_argument('--transformer-impl', default='local', choices=['local', 'transformer_engine'])\n"


@pytest.fixture
def tree(tmp_path) -> Path:
    (tmp_path / "megatron/core").mkdir(parents=True)
    (tmp_path / "megatron/training").mkdir()
    return tmp_path


def declare(tree: Path, text: str, file: str = "megatron/training/arguments.py") -> None:
    (tree / file).parent.mkdir(exist_ok=True)
    (tree / file).write_text(text)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        (LOCAL, "local"),
        ("", "transformer_engine"),
        ("p.add_argument('--transformer-impl', default=chosen())", "None"),
        ("p.add_argument('--transformer-impl', default='local'", "transformer_engine"),
        (LOCAL + LOCAL.replace("default='local'", "default='transformer_engine'"), "None"),
    ],
    ids=["a fork's", "stock", "computed", "no Python", "two"],
)
def test_the_default_is_the_trees(tree, text, default):
    declare(tree, text)
    assert options("0.12.3", tree)["--transformer-impl"].default == default


def test_who_rules_follows_the_trees_default(tree):
    declare(tree, LOCAL)
    judged = judge_command(COMMAND, Setting("0.12.3", tree))
    assert judged is not None
    assert judged.rules.startswith("the tree's selectors rule")


def test_flags_of_its_own_are_known(tree):
    declare(tree, "")
    declare(tree, "g.add_argument('--ours', action='store_true')\ng.add_argument('--n', type=int)", "fork/features.py")
    found = options("0.12.3", tree)
    assert (found["--ours"].nargs, found["--n"].type) == (0, "int")
    declare(tree, "g.add_argument('--of-a-test')", "tests/arguments.py")
    assert "--of-a-test" not in options("0.12.3", tree)
