"""The inserted code: minimal, valid, removable, and refused with the anchor's name where it does not fit."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from quantctl.patches.patch import Patch
from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import AnchorError, insert
from quantctl.tree.selectors import LAYERS, SELECTORS
from quantctl.tree.state import PatchState, plan, read_state

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


FORWARD = "        output = torch.matmul(total_input, weight.t())\n"
DGRAD = "        grad_input = grad_output.matmul(weight)\n"
QK = "            beta=0.0,\n            alpha=self.softmax_scale,\n"
PV = "        context = torch.bmm(attention_probs, value.transpose(0, 1))\n"
MIXED = """        if total_input.dtype == weight.dtype:
            output = torch.matmul(total_input, weight.t())
        else:
            output = te_general_gemm(weight, total_input, layout="TN")[0]
"""
SWITCH = """        if ctx.sequence_parallel:
            grad_input = grad_output @ weight
"""

LAST_TAG = "            self.output_layer.weight.is_embedding_or_output_parameter = True\n"

BROKEN = {
    "renamed method": (
        *("linear", "class ColumnParallelLinear", "class ColumnParallelLinearOld"),
        "function `ColumnParallelLinear.forward`",
    ),
    "renamed autograd function": (
        *("linear", "class LinearWithFrozenWeight(", "class FrozenLinear("),
        "function `LinearWithFrozenWeight.forward`",
    ),
    "other product": ("linear", FORWARD, FORWARD.replace("matmul", "mm"), "`output = torch.matmul(X, weight.t())`"),
    "other names": ("linear", DGRAD, DGRAD.replace("grad_input", "grad_in"), "`grad_input = DY.matmul(weight)`"),
    "a second forward product": ("linear", FORWARD, MIXED, "count the matrix products: expected 1, found 2"),
    "a second dgrad product": ("linear", DGRAD, DGRAD + SWITCH, "count the matrix products in front of the call of"),
    "wgrad operands prepared otherwise": (
        *("linear", "= prepare_input_tensors_for_wgrad_compute(", "= flatten_for_wgrad("),
        "`grad_output, total_input = prepare_input_tensors_for_wgrad_compute(grad_output, total_input)`",
    ),
    "other bias gradient": (
        *("linear", "grad_bias = grad_output.sum(dim=0)", "grad_bias = grad_output.sum(0)"),
        "`grad_bias = grad_output.sum(dim=0) if use_bias else None`",
    ),
    "arguments under another name": ("linear", "    args = [input, weight", "    arguments = [input, weight", "`args`"),
    "other attention scores": ("attention", QK, QK.replace("0.0", "1.0"), "`matmul_result = torch.baddbmm("),
    "no attention output": ("attention", PV, "        context = None\n", "`context = torch.bmm(P, V)`"),
    "a second attention output": ("attention", PV, PV + PV, "`context = torch.bmm(P, V)`: expected 1, found 2"),
    "a third attention product": ("attention", PV, PV + PV.replace("context", "sink"), "count the matrix products"),
    "renamed setup": (
        *("lm_head", "def setup_embeddings_and_output_layer", "def setup_output_layer"),
        "function `LanguageModule.setup_embeddings_and_output_layer`",
    ),
}


def modified(tree: Path, patch: Patch, old: str, new: str) -> bytes:
    stock = (tree / patch.file).read_text()
    assert old in stock
    changed = stock.replace(old, new)
    compile(changed, patch.file, "exec")
    return changed.encode()


@pytest.mark.parametrize(("name", "old", "new", "named"), BROKEN.values(), ids=BROKEN)
def test_unmatched_anchor_is_refused_by_name(megatron_tree, name, old, new, named):
    patch = _by_name(name)
    source = modified(megatron_tree("0.16.1"), patch, old, new)
    with pytest.raises(AnchorError) as refusal:
        insert(source, patch.file, patch.edits, patch.header)
    assert patch.file in refusal.value.message
    assert named in refusal.value.message


def test_refusal_names_every_way_of_writing_it(megatron_tree):
    """The forward product stands in two ways in the releases; the refusal tells both."""
    patch = _by_name("linear")
    source = modified(megatron_tree("0.16.1"), patch, FORWARD, FORWARD.replace("output =", "out ="))
    with pytest.raises(AnchorError, match="return _linear_forward") as refusal:
        insert(source, patch.file, patch.edits, patch.header)
    assert "output = torch.matmul(X, weight.t())" in refusal.value.message


MODIFIED = {
    "comments and line breaks": (
        *("linear", FORWARD),
        "        output = torch.matmul(\n            total_input,  # gathered\n            weight.t(),\n        )\n",
    ),
    "gradient under another name": ("linear", DGRAD, "        dy = grad_output\n" + DGRAD.replace("grad_output", "dy")),
    "logging beside the product": ("linear", FORWARD, "        log_shape(total_input.shape)\n" + FORWARD),
    "one more parameter": (
        *("linear", "        wgrad_deferral_limit,\n        tp_group,\n"),
        "        wgrad_deferral_limit,\n        mine,\n        tp_group,\n",
    ),
    "its own decorator": ("linear", "    @custom_fwd\n", "    @custom_fwd\n    @torch.compiler.disable\n"),
    "positional call": (
        *("linear", "output_parallel = self._forward_impl(\n            input="),
        "output_parallel = self._forward_impl(\n            ",
    ),
    "scores with a named buffer": ("attention", "            matmul_input_buffer,\n", "            self.buffer,\n"),
    "tags of its own": ("lm_head", LAST_TAG, LAST_TAG + LAST_TAG.replace("is_embedding", "is_mine")),
}


@pytest.mark.parametrize(("name", "old", "new"), MODIFIED.values(), ids=MODIFIED)
def test_local_changes_beside_the_anchors_are_kept(megatron_tree, name, old, new):
    """What is inserted into the modified file is what is inserted into the stock one, up to names."""
    patch = _by_name(name)
    stock = (megatron_tree("0.16.1") / patch.file).read_bytes()
    source = modified(megatron_tree("0.16.1"), patch, old, new)
    patched = insert(source, patch.file, patch.edits, patch.header)
    calls = re.compile(rb"quantctl_\w+\.\w+\(")
    assert calls.findall(patched) == calls.findall(insert(stock, patch.file, patch.edits, patch.header))
    assert {line.strip() for line in new.splitlines()} <= {line.strip() for line in patched.decode().splitlines()}
