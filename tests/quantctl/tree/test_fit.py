"""What a fork does beside Megatron's code, judged before anything is set: each tree is a release with one change."""

from __future__ import annotations

import ast
import shutil
from textwrap import dedent, indent

import pytest

from quantctl.errors import QuantctlError
from quantctl.patches import fused_attention, grouped_experts
from quantctl.patches.registry import PATCHES
from quantctl.stock import releases as stock
from quantctl.tree import fit, verdict
from quantctl.tree.edit.insert import AnchorError
from quantctl.tree.elsewhere import selectors_in
from quantctl.tree.selectors import ATTENTION, LAYERS, OURS
from quantctl.tree.source import Source
from quantctl.tree.state import FILES, PatchState, plan, read_state

SOFTMAX = "megatron/core/fusions/fused_softmax.py"
MLP = "megatron/core/transformer/mlp.py"
EXPERTS = "megatron/core/transformer/moe/experts.py"
OWN = "mine/attention.py"


@pytest.fixture
def small_tree(megatron_tree, tmp_path):
    """Function from texts by file to a tree: the files of 0.16.1 that are judged, and those."""

    def make(changes: dict[str, str] | None = None, release: str = "0.16.1"):
        for file in (*FILES, *(file for patch in PATCHES for file, _ in patch.leaves_out)):
            if (megatron_tree(release) / file).is_file():
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(megatron_tree(release) / file, tmp_path / file)
        for file, text in (changes or {}).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        return tmp_path

    return make


@pytest.fixture
def stock_text(megatron_tree):
    return lambda file: (megatron_tree("0.16.1") / file).read_text()


def write(root, after: dict[str, bytes]) -> None:
    for file, raw in after.items():
        (root / file).write_bytes(raw)


# -- what a fast path leaves out --------------------------------------------------------------------------------------

SCORES = "        attention_scores = matmul_result.view(*output_size)\n"
PROBS = "        attention_probs: Tensor = self.scale_mask_softmax("
ATTENTION_CHANGES = {
    "softcapping": (ATTENTION, SCORES, "        matmul_result = torch.tanh(matmul_result / 2.0) * 2.0\n" + SCORES),
    "behind the softmax": (
        ATTENTION,
        "        context = torch.bmm(",
        "        self.seen = attention_probs\n        context = torch.bmm(",
    ),
    "a condition": (
        ATTENTION,
        SCORES,
        "        if self.capped:\n            matmul_result = cap(matmul_result)\n" + SCORES,
    ),
    "a changed number": (ATTENTION, "beta=0.0", "beta=0.5"),
    "another order": (ATTENTION, "context.permute(2, 0, 1, 3)", "context.permute(2, 1, 0, 3)"),
    "a decorator": (ATTENTION, "    def forward(\n", "    @observed\n    def forward(\n"),
    "the softmax class": (
        SOFTMAX,
        "    def forward_torch_softmax(self, input, mask",
        "    def forward_torch_softmax(self, input, mask2",
    ),
    "its helper": (SOFTMAX, "class FusedScaleMaskSoftmax(nn.Module):", "class FusedScaleMaskSoftmax(Capped):"),
    "the mask": (
        "megatron/core/transformer/utils.py",
        "attention_scores.masked_fill_(attention_mask, -10000.0)",
        "attention_scores.masked_fill_(attention_mask, -1.0)",
    ),
}
HARMLESS = {
    "comments": (ATTENTION, SCORES, "        # change the view\n\n" + SCORES),
    "line breaks": (
        ATTENTION,
        SCORES,
        "        attention_scores = matmul_result.view(\n            *output_size\n        )\n",
    ),
    "an annotation": (ATTENTION, SCORES, SCORES.replace("scores =", "scores: Tensor =")),
    "a docstring": (ATTENTION, '        """Forward."""\n', '        """The forward pass."""\n'),
    "another class": (ATTENTION, "class DotProductAttention(", "class Mine:\n    pass\n\n\nclass DotProductAttention("),
}
EXPERT_CHANGES = {
    "between the experts' products": (
        MLP,
        "        # [s, b, h]\n",
        "        intermediate_parallel = intermediate_parallel / 2\n",
    ),
    "in the loop": (
        EXPERTS,
        "            output_local_list = []\n",
        "            output_local_list = []\n            self.seen = tokens_list\n",
    ),
    "in a linear layer": (LAYERS, "        # Matrix multiply.\n", "        input_parallel = noisy(input_parallel)\n"),
    "in what it calls": (
        LAYERS,
        "        grad_bias = grad_output.sum(dim=0)",
        "        grad_output = noisy(grad_output)\n        grad_bias = grad_output.sum(dim=0)",
    ),
}


def changed(stock_text, file: str, old: str, new: str) -> dict[str, str]:
    text = stock_text(file)
    assert old in text
    after = text.replace(old, new)
    ast.parse(after)
    return {file: after}


@pytest.mark.parametrize(("file", "old", "new"), ATTENTION_CHANGES.values(), ids=ATTENTION_CHANGES)
def test_attention_with_more_in_it_is_not_fused(small_tree, stock_text, file, old, new):
    state = read_state(small_tree(changed(stock_text, file, old, new)))
    place = stock.strange(fused_attention.PATCH, state.reader({}))
    assert place is not None
    assert place.file == file
    with pytest.raises(QuantctlError, match="is no known release's own code") as refusal:
        fit.refuse_strange(state.reader({}))
    assert f"{file}:{place.line}: " in refusal.value.message


def test_fused_is_refused_and_auto_is_not(small_tree, stock_text):
    state = read_state(small_tree(changed(stock_text, *ATTENTION_CHANGES["softcapping"])))
    with pytest.raises(QuantctlError, match="fused attention would leave it out"):
        plan(state, {"attention": "fused"})
    assert b"custom_attention_impl = 'auto'" in plan(state, {"attention": "auto"})[ATTENTION]


@pytest.mark.parametrize(("file", "old", "new"), HARMLESS.values(), ids=HARMLESS)
def test_what_computes_the_same_is_fused(small_tree, stock_text, file, old, new):
    state = read_state(small_tree(changed(stock_text, file, old, new)))
    assert stock.strange(fused_attention.PATCH, state.reader({})) is None


@pytest.mark.parametrize(("file", "old", "new"), EXPERT_CHANGES.values(), ids=EXPERT_CHANGES)
def test_experts_with_more_in_them_are_not_grouped(small_tree, stock_text, file, old, new):
    state = read_state(small_tree(changed(stock_text, file, old, new)))
    place = stock.strange(grouped_experts.PATCHES[0], state.reader({}))
    assert place is not None
    assert place.file == file


def test_an_edit_of_a_patched_tree_is_found(small_tree):
    """Also inside the code that quantctl inserted."""
    root = small_tree()
    write(root, plan(read_state(root), {"attention": "auto", "linear": "mxfp8"}))
    state = read_state(root)
    assert verdict.problems(state, ()) == []
    assert all(stock.strange(patch, state.reader({})) is None for patch in PATCHES if patch.leaves_out)
    path = root / ATTENTION
    for old, new in (
        (SCORES, "        matmul_result = cap(matmul_result)\n" + SCORES),
        (
            "            context = quantctl_attention.pv(",
            "            value = cap(value)\n            context = quantctl_attention.pv(",
        ),
    ):
        patched = path.read_text()
        assert patched.count(old) == 1
        path.write_text(patched.replace(old, new))
        (problem,) = verdict.problems(read_state(root), ())
        assert problem.startswith(f"attention=auto stays unfused: {ATTENTION}:")
        path.write_text(patched)


# -- functions that go by the selectors -------------------------------------------------------------------------------

SECOND = """
class OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight):
        ctx.save_for_backward(input, weight)
        return {}

    @staticmethod
    def backward(ctx, grad_output):
        return None, None


class ColumnParallelLinear("""
PRODUCTS = (
    "torch.matmul(input, weight.t())",
    "input @ weight.t()",
    "F.linear(input, weight)",
    "torch.einsum('ij,kj->ik', input, weight)",
    "deep_gemm.fp8_gemm_nt(input, weight)",
)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_second_linear_function_is_found(stock_text, product):
    (text,) = changed(stock_text, LAYERS, "\nclass ColumnParallelLinear(", SECOND.format(product)).values()
    (place,) = [p for p in stock.undecided(ast.parse(text), LAYERS, frozenset(), patched=True) if not p.own]
    assert place.scope == "OwnLinear.forward"
    assert text.splitlines()[place.line - 1].endswith(f"return {product}")


def test_a_second_linear_function_is_named_and_refused(small_tree, stock_text):
    root = small_tree(changed(stock_text, LAYERS, "\nclass ColumnParallelLinear(", SECOND.format(PRODUCTS[0])))
    state = read_state(root)
    with pytest.raises(QuantctlError, match="no selector decides the matrix products") as refusal:
        plan(state, {"linear": "mxfp8"})
    assert f"{LAYERS}:755: OwnLinear.forward" in refusal.value.message
    assert "--accept-bypass OwnLinear" in str(refusal.value.hint)
    write(root, plan(state, {"linear": "mxfp8"}, ["OwnLinear"]))
    (problem,) = verdict.problems(read_state(root), ())
    assert "OwnLinear.forward computes products that no selector decides" in problem
    assert verdict.problems(read_state(root), ["OwnLinear.forward"]) == []


@pytest.mark.parametrize("release", ["0.10.0", "0.12.3", "0.14.0", "0.16.1", "0.18.2", "0.19.0", "main"])
def test_every_function_of_a_release_is_known(megatron_tree, release):
    for file in stock.PRODUCT_FILES:
        module = ast.parse((megatron_tree(release) / file).read_bytes())
        assert all(place.own for place in stock.undecided(module, file, frozenset(), patched=False))


# -- what programs replace at run time --------------------------------------------------------------------------------

LINEAR = "LinearWithGradAccumulationAndAsyncCommunication"
REPLACED = {
    "by assignment": f"from megatron.core.tensor_parallel import layers\nlayers.{LINEAR}.forward = mine\n",
    "by its imported name": f"from megatron.core.tensor_parallel.layers import {LINEAR}\n{LINEAR}.backward = mine\n",
    "by setattr": f"setattr(layers.{LINEAR}, 'forward', mine)\n",
    "in a registry": f"register_patch('megatron.core.tensor_parallel.layers.{LINEAR}.forward', mine)\n",
    "the whole class": f"Manager.register('megatron.core.tensor_parallel.layers.{LINEAR}', Mine)\n",
    "the layer": "ColumnParallelLinear.forward = mine\n",
    "the output layer's setup": "LanguageModule.setup_embeddings_and_output_layer = mine\n",
}
NOT_REPLACED = {
    "called": f"y = layers.{LINEAR}.apply(x)\n",
    "compared": f"assert layers.{LINEAR}.forward == mine\n",
    "derived": f"class Mine(layers.{LINEAR}):\n    forward = mine\n",
    "another method": "ColumnParallelLinear.__repr__ = mine\n",
    "told": f"print('megatron.core.tensor_parallel.layers.{LINEAR}.forward')\n",
}


@pytest.mark.parametrize("text", REPLACED.values(), ids=REPLACED)
def test_what_is_replaced_at_run_time_is_found(small_tree, text):
    root = small_tree({"pretrain_gpt.py": "", "mine/adaptor.py": "import torch\n" + text})
    (found,) = read_state(root).replaced
    assert (found.file, found.line) == ("mine/adaptor.py", 1 + len(text.splitlines()))
    linear, lm_head = PATCHES[:2]
    refusals = [fit.replaced(patch, [found], ()) for patch in (linear, lm_head)]
    assert any(refusals)
    assert not any(fit.replaced(patch, [found], [found.target]) for patch in (linear, lm_head))


@pytest.mark.parametrize("text", NOT_REPLACED.values(), ids=NOT_REPLACED)
def test_what_is_only_mentioned_is_not_replaced(small_tree, text):
    assert read_state(small_tree({"pretrain_gpt.py": "", "mine/adaptor.py": text})).replaced == []


def test_what_is_replaced_at_run_time_is_not_patched(small_tree):
    root = small_tree({"pretrain_gpt.py": "", "mine/adaptor.py": REPLACED["in a registry"]})
    state = read_state(root)
    with pytest.raises(QuantctlError, match=rf"mine/adaptor\.py:1 replaces {LINEAR}\.forward at run time") as refusal:
        plan(state, {"linear": "mxfp8"})
    assert f"--accept-bypass {LINEAR}.forward" in str(refusal.value.hint)
    after = plan(state, {"qk": "mxfp8"})
    assert LAYERS not in after
    assert b"custom_quant_type_qk = 'mxfp8'" in after[ATTENTION]
    write(root, plan(state, {"linear": "mxfp8"}, [LINEAR]))
    assert any("mine/adaptor.py:1" in problem for problem in verdict.problems(read_state(root), ()))
    assert verdict.problems(read_state(root), [LINEAR]) == []


# -- selectors in other files -----------------------------------------------------------------------------------------

DECIDES = "custom_quant_type = 'bf16'\nif custom_quant_type == 'mxfp8':\n"

ELSEWHERE = """
def attend(query, key, value):
    custom_quant_type = 'mxfp8'
    if custom_quant_type == 'mxfp8':
        query, key, value = quantize(query, key, value)
    elif custom_quant_type == 'hif8':
        query, key, value = quantize(query, key, value, 'hif8')
    return torch_npu.npu_fusion_attention(query, key, value)
"""
REGISTERED = "register('megatron.core.transformer.dot_product_attention.DotProductAttention.forward', attend)\n"


def test_attention_that_a_fork_decides_elsewhere_is_set_there(small_tree):
    root = small_tree({"pretrain_gpt.py": "", OWN: ELSEWHERE, "mine/adaptor.py": REGISTERED})
    state = read_state(root)
    (place,) = state.places
    assert (place.roles, place.where, place.literal.value) == (("qk", "pv"), f"{OWN}:3", "mxfp8")
    assert state.values() == {"qk": "mxfp8", "pv": "mxfp8"}
    assert state.of_fork() == ["pv", "qk"]
    assert state.patches["attention"] is PatchState.LEFT_TO_FORK
    after = plan(state, {"qk": "hifp8", "pv": "hifp8"})
    assert after[OWN] == ELSEWHERE.replace("= 'mxfp8'\n    if", "= 'hif8'\n    if").encode()
    assert ATTENTION not in after
    for values, reason in (
        ({"qk": "hifp8"}, "decides qk and pv together"),
        ({"qk": "mxfp4", "pv": "mxfp4"}, "no branch of it asks for 'mxfp4'"),
        ({"attention": "fused"}, f"a fork's own selector decides attention at {OWN}:3"),
    ):
        with pytest.raises(QuantctlError, match=reason) as refusal:
            plan(state, values)
        assert f"{OWN}:3" in refusal.value.message


@pytest.mark.parametrize("release", ["0.12.3", "0.19.0"])
def test_experts_that_a_fork_decides_are_found_however_layers_are_called(megatron_tree, release):
    """From 0.18 on, `apply_module(self.linear_fc2)(x)`."""
    head, line, tail = (megatron_tree(release) / MLP).read_text().partition("        # [s, b, h]\n")
    body = f"{DECIDES}    intermediate_parallel = quantize(intermediate_parallel)\n"
    found = selectors_in(Source((head + indent(body, " " * 8) + line + tail).encode(), MLP), OURS)
    assert [place.roles for place in found.selectors] == [("linear",)]
    assert found.unclear == ()


def test_experts_that_a_fork_decides_are_set_beside_the_layers(small_tree, stock_text):
    body = """
        custom_quant_type = 'bf16'
        if custom_quant_type == 'mxfp8':
            intermediate_parallel = quantize(intermediate_parallel)
        elif custom_quant_type == 'mxfp4_auto':
            intermediate_parallel = quantize(intermediate_parallel, 'auto')
        """
    old = "        # [s, b, h]\n"
    root = small_tree(changed(stock_text, MLP, old, indent(dedent(body).lstrip("\n"), " " * 8) + old))
    state = read_state(root)
    assert [(place.roles, sorted(place.formats)) for place in state.places] == [(("linear",), ["mxfp4_auto", "mxfp8"])]
    after = plan(state, {"linear": "mxfp8"})
    assert b"custom_quant_type_linear = 'mxfp8'" in after[LAYERS]
    assert b"custom_quant_type = 'mxfp8'" in after[MLP]


@pytest.mark.parametrize("folder", ["tests", ".hidden", "venv", "docs"])
def test_files_that_no_training_imports_do_not_count(small_tree, folder):
    root = small_tree({"pretrain_gpt.py": "", f"{folder}/attention.py": ELSEWHERE})
    if folder == "venv":
        (root / folder / "pyvenv.cfg").touch()
    assert read_state(root).places == []


# -- selectors need their own anchors ---------------------------------------------------------------------------------

MISFITS = {
    "attention": (
        ATTENTION,
        "beta=0.0",
        "beta=1.0",
        {"linear": "mxfp8"},
        {"qk": "mxfp8"},
        "nearest is line 194: `matmul_result = torch.baddbmm(",
    ),
    "linear": (
        LAYERS,
        "output = torch.matmul(",
        "output = torch.mm(",
        {"pv": "mxfp8"},
        {"linear": "mxfp8"},
        "nearest is line 341: `output = torch.mm(input, weight.t())`",
    ),
    "its tag": (
        "megatron/core/models/common/language_module/language_module.py",
        "def setup_embeddings_and_output_layer",
        "def set_up_layers",
        {"qk": "mxfp8"},
        {"linear": "mxfp8"},
        "nearest is line ",
    ),
}


@pytest.mark.parametrize(("file", "old", "new", "fits", "refused", "nearest"), MISFITS.values(), ids=MISFITS)
def test_a_selector_needs_its_own_anchors_only(small_tree, stock_text, file, old, new, fits, refused, nearest):
    state = read_state(small_tree(changed(stock_text, file, old, new)))
    after = plan(state, fits)
    assert not any(b"custom_quant_type_%b = " % role.encode() in raw for role in refused for raw in after.values())
    with pytest.raises(AnchorError) as refusal:
        plan(state, refused)
    assert file in refusal.value.message
    assert nearest in refusal.value.message
