"""The literals of docs/formats.md, trained: modules compute what an outline of the model says and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from literals import examples

from quantctl.lint.case import Setting
from quantctl.lint.judge import case_of
from quantctl.lint.outline import outline
from quantctl.runs import proof
from quantctl.smoke.flags import words
from quantctl.spec.outline import resolved
from quantctl.spec.resolution import schedule_of
from quantctl.tree.state import plan, read_state

TRAINER = Path(__file__).resolve().parents[1] / "support" / "trained_literals.py"
STEPS = 2000
STOCK = dict.fromkeys(("linear", "lm_head", "qk", "pv"), "none")


@pytest.fixture(scope="module")
def trained(megatron_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("literals")
    tree = folder / "tree"
    shutil.copytree(megatron_tree("0.16.1"), tree)
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    rows = [
        ["deepseek2_lite" if one.wants_experts else "llama32-1b", one.site, one.literal, str(folder / str(number))]
        for number, one in enumerate(examples())
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run(
        [sys.executable, str(TRAINER), str(folder / "rows.json")],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tree, rows


@pytest.mark.parametrize("number", range(len(examples())), ids=[one.literal for one in examples()])
def test_trained_and_proven_by_module(trained, number):
    tree, rows = trained
    model, site, literal, folder = rows[number]
    setting = Setting("0.16.1", tree, read_state(tree))
    case = case_of(["python", "-m", "quantctl.pretrain", *words(model, STEPS)], setting)
    foreseen = resolved({site: literal}, outline(case), STEPS)
    assert any(site in said for said in foreseen.values())
    found = proof.merge(Path(folder), STOCK | {site: literal}, foreseen=foreseen)
    assert found.problems == []
    for own in found.by_module.values():
        assert own[site]["calls"].keys() == schedule_of(own[site]["says"], site).specs
