"""`quantctl list`: the registry for people, pipes and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from quantctl.cli import cli
from quantctl.commands.list import KINDS
from quantctl.modes import MODES
from quantctl.spec import canonical
from quantctl.spec.recipes import RECIPES


@pytest.fixture
def lines() -> list[list[str]]:
    done = CliRunner().invoke(cli, ["list"])
    assert done.exit_code == 0
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("model", ["llama31-8b", "llama32-1b", "deepseek2_lite"]),
        ("dataset", ["wikipedia", "dolma"]),
        ("mode", list(MODES)),
        ("recipe", list(RECIPES)),
        (
            "format",
            [
                "mxfp8",
                "mxfp6",
                "mxfp4",
                "nvfp4",
                "fp8",
                "int8",
                "hifp8 hif8",
                "hifp4 hif4",
                "all of these",
                "none bf16",
            ],
        ),
        ("training config", ["standard", "fast", "smoke"]),
        ("platform", ["cuda", "npu", "cpu"]),
    ],
)
def test_a_pipe_gets_a_row_a_line(kind, names, lines):
    assert [line[1] for line in lines if line[0] == kind] == names


def test_parameters_are_shown(lines):
    assert [line[3:5] for line in lines if line[1] == "deepseek2_lite"] == [["15.71B", "2.45B"]]


def test_json_holds_the_tables_and_60_scripts():
    done = CliRunner().invoke(cli, ["--json", "list"])
    data = json.loads(done.stdout)
    assert data["models"]["llama31-8b"]["full"]["hidden_size"] == 4096
    assert data["modes"]["FA_linear_mxfp4"] == {"linear": "mxfp4", "lm_head": "none", "qk": "mxfp4", "pv": "none"}
    assert data["datasets"]["dolma"]["split"] == "999,1,0"
    assert data["training_configs"]["standard"]["train_iters"] == 10000
    assert len(data["scripts"]) == 60
    assert all(Path(row["path"]).is_file() for row in data["scripts"])


def test_the_grammar_is_shown_by_literals_that_are_right():
    lines = KINDS["formats"]().note.splitlines()
    assert max(map(len, lines)) <= 80
    examples = [line[:40].strip() for line in lines if line.startswith("  mx")]
    assert len(examples) == 5
    assert all(canonical(example, "linear") for example in examples)
