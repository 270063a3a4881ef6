"""`patch --list` and `check`: what each patch is to a tree."""

from __future__ import annotations

import json
import re

import pytest

from quantctl.patches import transformer_engine
from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import insert
from quantctl.tree.selectors import ATTENTION
from quantctl.tree.state import plan, read_state

REQUIRED = {"linear", "lm_head", "attention", "fused_attention"}
TE = {patch.name for patch in transformer_engine.PATCHES}


def listed(quantctl, tree) -> dict[str, dict]:
    done = quantctl("--megatron", tree, "--json", "patch", "--list")
    assert done.status == 0, done.err
    return {entry["name"]: entry for entry in json.loads(done.out)["patches"]}


def states(quantctl, tree) -> dict[str, str]:
    return {name: entry["state"] for name, entry in listed(quantctl, tree).items()}


def checked(quantctl, tree) -> dict[str, str]:
    return json.loads(quantctl("--megatron", tree, "--json", "check").out)["patches"]


def test_a_stock_tree(quantctl, megatron_tree, documented):
    tree = megatron_tree("0.12.3")
    entries = listed(quantctl, tree)
    documented("patch --list", {"schema_version": 1, "tree": "", "megatron_core": "", "patches": [*entries.values()]})
    assert set(entries) == {patch.name for patch in PATCHES}
    assert {name for name, entry in entries.items() if entry["required"]} == REQUIRED
    found = {name: entry["state"] for name, entry in entries.items()}
    optional = {"names", "mla", "mla_tensor_parallel", "rmsnorm_sp", "grouped_experts"}
    assert {name for name, state in found.items() if state == "available"} == REQUIRED | TE | optional
    assert found["moe_without_te"] == "not needed"
    assert found["rope_scaling_factor:pretrain_gpt"] == "not applicable"
    assert checked(quantctl, tree) == found


def test_a_patched_tree(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    quantctl("--megatron", tree, "patch")
    found = states(quantctl, tree)
    assert "available" not in found.values()
    assert {name for name, state in found.items() if state == "applied"} == REQUIRED | TE | {
        *("names", "mla", "mla_without_te", "mla_tensor_parallel", "rmsnorm_sp", "moe_without_te", "grouped_experts")
    }
    done = quantctl("--megatron", tree, "check")
    assert "patches applied  linear, lm_head, names, attention, fused_attention, mla" in done.out
    assert "patches available" not in done.out


def test_a_tree_patched_before_there_was_the_attention_selector(quantctl, stock_copy, megatron_tree):
    """Such a tree gets it with its next `set`, keeps what it says, and goes back to what it was."""
    tree = stock_copy("0.16.1")
    earlier = [patch for patch in PATCHES if patch.required and patch.name != "fused_attention"]
    for patch in earlier:
        file = tree / patch.file
        file.write_bytes(insert(file.read_bytes(), patch.file, patch.edits, patch.header))
    attention = tree / ATTENTION
    attention.write_text(attention.read_text().replace("_qk = 'none'", "_qk = 'mxfp4'"))
    before = attention.read_bytes()

    shown = quantctl("--megatron", tree, "check", "--expect", "qk=mxfp4,attention=unfused")
    assert shown.status == 1
    assert "problem: patch fused_attention is missing beside the others: run quantctl patch\n" in shown.err
    assert shown.err.count("problem:") == 1
    done = quantctl("--megatron", tree, "set", "--pv", "mxfp8", "--attention", "auto")
    assert done.status == 0, done.err
    assert re.search(r"attention +auto \(new\)", done.out)
    assert quantctl("--megatron", tree, "check", "--expect", "qk=mxfp4,pv=mxfp8,attention=auto").status == 0
    afresh = plan(read_state(megatron_tree("0.16.1")), {"qk": "mxfp4", "pv": "mxfp8", "attention": "auto"})
    assert attention.read_bytes() == afresh[ATTENTION]
    assert quantctl("--megatron", tree, "restore").status == 2  # nobody knows the bytes of before it was patched
    assert quantctl("--megatron", tree, "undo").status == 0
    assert attention.read_bytes() == before


def test_one_that_does_not_fit_is_named_and_left_out(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    norm = tree / "megatron/core/transformer/torch_norm.py"
    norm.write_text(norm.read_text().replace("return norm_cls(", "return build_norm("))
    before = norm.read_bytes()
    assert quantctl("--megatron", tree, "patch").status == 0
    assert norm.read_bytes() == before
    entry = listed(quantctl, tree)["rmsnorm_sp"]
    assert entry["state"] == "does not fit"
    assert "WrappedTorchNorm.__new__" in entry["reason"]
    done = quantctl("--megatron", tree, "patch", "--list")
    assert "rmsnorm_sp does not fit (left out)" in done.err
    # check reads no syntax trees: the patch that is wanted and not there is available to it, and no problem
    done = quantctl("--megatron", tree, "check")
    assert done.status == 0
    assert "patches available  rmsnorm_sp" in done.out


def test_a_required_one_that_does_not_fit_refuses_everything(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    layers = tree / "megatron/core/tensor_parallel/layers.py"
    layers.write_text(layers.read_text().replace("class ColumnParallelLinear", "class ColumnParallelLinearOld"))
    done = quantctl("--megatron", tree, "patch")
    assert done.status == 2
    assert "ColumnParallelLinear" in done.err
    assert states(quantctl, tree)["linear"] == "does not fit"
    listed = quantctl("--megatron", tree, "patch", "--list")
    assert "linear does not fit (so there is no selector for linear, lm_head)" in listed.err


def test_restore_takes_all_of_them_out(quantctl, stock_copy, megatron_tree):
    tree = stock_copy("0.16.1")
    quantctl("--megatron", tree, "patch")
    assert quantctl("--megatron", tree, "restore").status == 0
    for patch in PATCHES:
        stock = megatron_tree("0.16.1") / patch.file
        assert not stock.exists() or (tree / patch.file).read_bytes() == stock.read_bytes()


@pytest.mark.parametrize("name", ["pretrain_gpt.py", "gpt_builders.py"])
def test_an_optional_file_may_be_absent_or_a_directory(quantctl, stock_copy, name):
    tree = stock_copy("0.16.1")
    assert states(quantctl, tree)[f"rope_scaling_factor:{name.removesuffix('.py')}"] == "not applicable"
    (tree / name).mkdir()
    done = quantctl("--megatron", tree, "check")
    assert done.status == 2
    assert f"cannot read {tree / name}: Is a directory" in done.err


def test_list_and_diff_exclude_each_other(quantctl, megatron_tree):
    done = quantctl("--megatron", megatron_tree("0.16.1"), "patch", "--list", "--diff")
    assert done.status == 2
