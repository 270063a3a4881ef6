"""The literals of docs/formats.md and the recipes, trained: modules compute what an outline of the model says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from literals import examples
from warm_python import python

from quantctl.lint.case import Setting
from quantctl.lint.judge import case_of
from quantctl.lint.outline import outline
from quantctl.runs import proof
from quantctl.smoke.flags import words
from quantctl.spec.outline import resolved
from quantctl.spec.recipes import RECIPES
from quantctl.spec.resolution import schedule_of
from quantctl.tree.state import plan, read_state

TRAINER = Path(__file__).resolve().parents[1] / "support" / "trained_literals.py"
STEPS = 2000
STOCK = dict.fromkeys(("linear", "lm_head", "qk", "pv"), "none")


@pytest.fixture(scope="module")
def tree(megatron_tree, tmp_path_factory):
    tree = tmp_path_factory.mktemp("literals") / "tree"
    shutil.copytree(megatron_tree("0.16.1"), tree)
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    return tree


@pytest.fixture(scope="module")
def train(tree, tmp_path_factory):
    """Function: train each of some (model, site, literal); the run directory of each."""

    def run(cases):
        folder = tmp_path_factory.mktemp("trained")
        rows = [[*case, str(folder / str(number))] for number, case in enumerate(cases)]
        (folder / "rows.json").write_text(json.dumps(rows))
        _trained(tree, folder)
        return {case: Path(row[-1]) for case, row in zip(cases, rows, strict=True)}

    return run


def _trained(tree, folder):
    done = python(TRAINER, str(folder / "rows.json"), env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr[-3000:]


DENSE, MIXTURE = "llama32-1b", "deepseek2_lite"
CASES = {one.literal: (MIXTURE if one.wants_experts else DENSE, one.site, one.literal) for one in examples()}


DAILY = ((DENSE, "te-nvfp4"), (DENSE, "mxfp4-sr-rht"), (DENSE, "hif8-ascend"), (MIXTURE, "experts-mxfp4"))
RECIPE_CASES = {
    (model, name): (model, "linear", recipe.linear)
    for name, recipe in RECIPES.items()
    for model in (DENSE, MIXTURE)
    if model == MIXTURE or "experts" not in recipe.linear
}


@pytest.fixture(scope="module")
def trained(train):
    return train([*CASES.values(), *(RECIPE_CASES[key] for key in DAILY)])


@pytest.fixture(scope="module")
def trained_others(train):
    return train([case for key, case in RECIPE_CASES.items() if key not in DAILY])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_trained_and_proven_by_module(trained, tree, case):
    _proven(tree, case, trained[case])


@pytest.mark.parametrize("key", DAILY, ids=" ".join)
def test_a_recipe_is_trained_and_proven_by_module(trained, tree, key):
    _proven(tree, RECIPE_CASES[key], trained[RECIPE_CASES[key]])


@pytest.mark.releases
@pytest.mark.parametrize("key", [key for key in RECIPE_CASES if key not in DAILY], ids=" ".join)
def test_every_other_recipe(trained_others, tree, key):
    _proven(tree, RECIPE_CASES[key], trained_others[RECIPE_CASES[key]])


def _proven(tree, case, folder):
    model, site, literal = case
    setting = Setting("0.16.1", tree, read_state(tree))
    case = case_of(["python", "-m", "quantctl.pretrain", *words(model, STEPS)], setting)
    foreseen = resolved({site: literal}, outline(case), STEPS)
    assert any(site in said for said in foreseen.values())
    found = proof.merge(folder, STOCK | {site: literal}, foreseen=foreseen)
    assert found.problems == []
    for own in found.by_module.values():
        assert own[site]["calls"].keys() == schedule_of(own[site]["says"], site).specs
