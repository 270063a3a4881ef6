"""Modules that know their names, rules that speak of them, and trees that an earlier quantctl patched."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from warm_python import python

from quantctl.commands import _change
from quantctl.errors import QuantctlError
from quantctl.patches.registry import PATCHES
from quantctl.stock.unpatch import functions_of, scopes_of, unpatched
from quantctl.tree import state
from quantctl.tree.state import plan, read_state
from quantctl.tree.tree import Tree

STAGES = Path(__file__).resolve().parents[1] / "support" / "stages.py"
RULES = "mxfp8; layers -1: none; layers ..50%: mxfp4"


def _former(patch):
    """The patch as the edition before wrote it."""
    if not patch.former:
        return patch
    names = {str(edit) for edit in patch.former}
    kept = tuple(edit for edit in patch.edits if "quant_layer" not in str(edit) + getattr(edit, "code", ""))
    kept = tuple(edit for edit in kept if str(edit) not in names)
    return replace(patch, edits=(*patch.former, *kept), edition=b"")


@pytest.fixture
def old_quantctl(monkeypatch):
    """Patches as an earlier quantctl had them, until the function is called."""
    with monkeypatch.context() as patched:
        former = tuple(_former(patch) for patch in PATCHES if patch.name != "names")
        patched.setattr(state, "PATCHES", former)
        yield patched.undo


def _set(tree: Path, **values: str) -> None:
    _change.change_tree(Tree(tree, "--megatron"), values, kind="set", dry=False, show_diff=False, as_json=True)


def _contents(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.py")}


def test_a_tree_of_an_earlier_edition_is_patched_anew(quantctl, stock_copy, old_quantctl, monkeypatch):
    tree = stock_copy("0.16.1")
    stock = _contents(tree)
    _set(tree, linear="mxfp8", qk="mxfp4", attention="auto")
    old_quantctl()
    assert {patch.name for patch in read_state(tree).outdated()} == {"linear", "lm_head", "attention"}
    done = quantctl("--megatron", tree, "set", "--linear", RULES)
    assert done.status == 0, done.err
    assert "patched anew" in done.err
    now = read_state(tree)
    assert not now.outdated()
    assert now.values() == {"linear": RULES, "lm_head": "none", "qk": "mxfp4", "pv": "none", "attention": "auto"}
    assert quantctl("--megatron", tree, "restore").status == 0
    assert _contents(tree) == stock


def test_where_its_own_bytes_are_unknown_rules_are_refused(stock_copy, old_quantctl):
    tree = stock_copy("0.16.1")
    for file, raw in plan(read_state(tree), {"linear": "mxfp8"}).items():
        (tree / file).write_bytes(raw)
    old_quantctl()
    before = _contents(tree)
    with pytest.raises(QuantctlError, match="was patched by a quantctl that knew none"):
        _set(tree, linear=RULES)
    assert _contents(tree) == before
    _set(tree, linear="mxfp8:gradient.elem=e5m2")  # operands need no names
    assert read_state(tree).values()["linear"] == "mxfp8:gradient.elem=e5m2"


@pytest.mark.parametrize("name", ["linear", "lm_head", "attention"])
def test_an_earlier_edition_is_taken_out_to_the_letter(stock_copy, old_quantctl, name):
    (patch,) = (patch for patch in PATCHES if patch.name == name)
    tree = stock_copy("0.16.1")
    stock = (tree / patch.file).read_bytes()
    after = plan(read_state(tree), {"linear": "mxfp8"})[patch.file]
    old_quantctl()
    assert patch.edition not in after
    for module in (unpatched(after, patch.file), unpatched(plan(read_state(tree), {})[patch.file], patch.file)):
        found, wanted = (dict(functions_of(of)) for of in (module, ast.parse(stock)))
        for scope in scopes_of(patch):
            assert ast.dump(found[scope]) == ast.dump(wanted[scope])


def test_layers_count_over_pipeline_stages(patched):
    """Two stages with one chunk of layers each, and with two; a rule must fit a module of some stage."""
    tree = patched("0.16.1", linear="mxfp8")
    arguments = (STAGES, RULES, "mxfp8; layers 1: none; linear_fc3: mxfp4")
    done = python(*arguments, env={**os.environ, "PYTHONPATH": str(tree)})
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 8, done.stderr
    for chunks in (1, 2):
        found = [line for line in lines if line["chunks"] == chunks]
        named = {name: text for line in found for name, text in line.get("modules", {}).items()}
        parts = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
        specs = ("mxfp4", "mxfp4", "mxfp8", "none")
        assert named == {f"decoder.layers.{i}.{part}": spec for i, spec in enumerate(specs) for part in parts}
        errors = [line["error"] for line in found if "error" in line]
        assert len(errors) == 2
        assert all("`linear_fc3: mxfp4` fits no module of this model" in error for error in errors)
        assert "did you mean linear_fc1, linear_fc2" in errors[0]
