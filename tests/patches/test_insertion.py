"""The inserted code: minimal, valid, removable, and refused with the anchor's name where it does not fit."""

from __future__ import annotations

import difflib

import pytest

from quantctl.edit.insert import AnchorError, insert
from quantctl.patches.registry import PATCHES
from quantctl.selectors import LAYERS, SELECTORS
from quantctl.source import Source
from quantctl.state import PatchState, plan, read_state

RELEASES = ("0.12.3", "0.16.1")


def _by_name(name):
    return next(patch for patch in PATCHES if patch.name == name)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("patch", [p for p in PATCHES if p.required], ids=lambda patch: patch.name)
def test_only_the_anchored_lines_change(megatron_tree, release, patch):
    """Every stock line is still there in order, apart from those that got an argument more or deeper indentation."""
    stock = (megatron_tree(release) / patch.file).read_text()
    patched = insert(stock.encode(), patch.file, patch.edits, patch.header).decode()
    gone = [
        line[2:].strip()
        for line in difflib.ndiff([s.strip() for s in stock.splitlines()], [s.strip() for s in patched.splitlines()])
        if line.startswith("- ")
    ]
    longer = ("def forward(", "args = [", "return ")
    assert all(line.startswith(longer) for line in gone), gone
    assert not [line for line in patched.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize("release", RELEASES)
def test_every_selector_can_be_set_in_one_plan(megatron_tree, release):
    values = {"linear": "mxfp8:scale=floor,elem=e5m2", "lm_head": "hifp8", "qk": "mxfp4", "pv": "mxfp8"}
    state = read_state(megatron_tree(release))
    assert not state.selectors
    after = plan(state, values)
    assert set(after) == {patch.file for patch in PATCHES if state.patches[patch.name] is PatchState.AVAILABLE}
    for role, value in values.items():
        assert f"custom_quant_type_{role} = '{value}'".encode() in after[SELECTORS[role].file]


def test_patching_twice_changes_nothing(stock_copy):
    tree = stock_copy("0.16.1")
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    assert plan(read_state(tree), {}) == {}


def test_crlf_file_stays_crlf(megatron_tree):
    patch = _by_name("linear")
    stock = (megatron_tree("0.16.1") / LAYERS).read_bytes()
    expected = insert(stock, LAYERS, patch.edits, patch.header).replace(b"\n", b"\r\n")
    assert insert(stock.replace(b"\n", b"\r\n"), LAYERS, patch.edits, patch.header) == expected


BROKEN = {
    "renamed method": ("class ColumnParallelLinear", "class ColumnParallelLinearOld", "ColumnParallelLinear.forward"),
    "other product": ("torch.matmul(total_input, weight.t())", "torch.mm(total_input, weight.t())", "torch.matmul"),
    "other names": ("grad_input = grad_output.matmul(weight)", "grad_in = grad_output.matmul(weight)", "grad_input ="),
}


@pytest.mark.parametrize(("old", "new", "named"), BROKEN.values(), ids=BROKEN)
def test_unmatched_anchor_is_refused_by_name(megatron_tree, old, new, named):
    patch = _by_name("linear")
    stock = (megatron_tree("0.16.1") / LAYERS).read_text()
    assert old in stock
    with pytest.raises(AnchorError) as refusal:
        insert(stock.replace(old, new).encode(), LAYERS, patch.edits, patch.header)
    assert LAYERS in refusal.value.message
    assert named in refusal.value.message


def test_reformatted_anchors_still_match(megatron_tree):
    patch = _by_name("linear")
    stock = (megatron_tree("0.16.1") / LAYERS).read_text()
    loose = stock.replace(
        "output = torch.matmul(total_input, weight.t())",
        "output = torch.matmul(\n            total_input,  # gathered\n            weight.t(),\n        )",
    )
    assert loose != stock
    patched = insert(loose.encode(), LAYERS, patch.edits, patch.header)
    assert b"quantctl_linear.fprop(ctx, total_input, weight)" in patched
    compile(Source(patched, LAYERS).module, LAYERS, "exec")
