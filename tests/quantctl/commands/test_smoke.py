"""`quantctl smoke`: real models on real trees."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from quantctl.commands.smoke import _problems, _repeats
from quantctl.spec.names import unfold


def digest(tree: Path) -> str:
    """Of every file's name and content, bytecode included."""
    found = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def test_deepseek_with_selectors_of_its_own(stock_copy, quantctl, documented):
    tree = stock_copy("0.16.1")
    before = digest(tree)
    formats = ("--linear", "mxfp8", "--lm-head", "hifp8", "--qk", "mxfp8", "--pv", "mxfp4; from 90%: none")
    done = quantctl("--megatron", tree, "--json", "smoke", "deepseek2_lite", "--iterations", 3, *formats)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    documented("smoke", found)
    structure = found["structure"]
    assert structure["layers"] == 3
    attention = "multi-latent: 4 heads, queries uncompressed, keys and values from 32, qk 96, v 64"
    assert structure["attention"] == [attention] * 3
    experts = "experts: 64, top 6, 64 local a rank, width 32, shared width 64"
    assert structure["mlp"] == ["dense: width 672", experts, experts]
    assert structure["routers"] == 2
    counts = {kind: linear["layers"] for kind, linear in structure["linear"].items()}
    projections = ("q_proj", "kv_down_proj", "kv_up_proj", "proj")
    assert counts == {
        **{f"attention linear_{name}": 3 for name in projections},
        **{f"{part} linear_{fc}": n for part, n in (("dense MLP", 1), ("shared expert", 2)) for fc in ("fc1", "fc2")},
        **{f"expert linear_{fc}": 2 * 64 for fc in ("fc1", "fc2")},
        "output layer": 1,
    }
    # experts that are computed together count once
    calls = {"linear": sum(counts.values()) - 1 - 4 * 64 + 4, "lm_head": 1, "qk": 3, "pv": 3}
    specs = {"linear": "mxfp8", "lm_head": "hifp8", "qk": "mxfp8", "pv": "mxfp4"}
    for site, n in calls.items():
        assert found["hits"][site] == {specs[site]: dict.fromkeys(("fprop", "dgrad", "wgrad"), 3 * n)}, site
    modules = {site: seen["ran"] for site, seen in found["modules"].items()}
    assert modules == calls | {"linear": sum(counts.values()) - 1}
    assert len(found["losses"]) == 3
    assert found["losses"][1] < found["losses"][0]
    assert found["memory"]["peak resident bytes"] > 2**20
    assert found["problems"] == []
    # held against the model that was built
    table = found["resolved"]["sites"]
    assert {site: [row["schedule"] for row in rows] for site, rows in table.items()} == {
        **{site: [spec] for site, spec in specs.items()},
        "pv": ["mxfp4; from 181: none"],
    }
    assert len(unfold(table["linear"][0]["modules"])) == modules["linear"]
    assert digest(tree) == before


def test_a_tree_that_lacks_patches_is_told_which(stock_copy, quantctl):
    tree = stock_copy("0.16.1")
    before = digest(tree)
    refused = quantctl("--megatron", tree, "smoke", "deepseek2_lite")
    assert refused.status == 2
    assert f"the local layers of {tree} cannot run deepseek2_lite: TypeError: DotProductAttention" in refused.err
    for name in ("mla", "mla_without_te", "moe_without_te"):
        assert f"\n  {name}: " in refused.err
    assert "insert them with `quantctl patch`" in refused.err
    assert digest(tree) == before


def test_the_tree_in_use_as_it_is(stock_copy, megatron_tree, quantctl):
    tree, layers = stock_copy("0.16.1"), "megatron/core/extensions/transformer_engine.py"
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8", "--qk", "mxfp8").status == 0
    # as an earlier quantctl left it
    (tree / layers).write_bytes((megatron_tree("0.16.1") / layers).read_bytes())
    # what a wrong merge leaves: the selector is there, and its product is not
    attention = tree / "megatron/core/transformer/dot_product_attention.py"
    text = attention.read_text()
    assert text.count("if custom_quant_type_qk == 'none'") == 1
    attention.write_text(text.replace("if custom_quant_type_qk == 'none'", "if custom_quant_type_qk"))
    before = digest(tree)
    done = quantctl("--megatron", tree, "smoke", "llama31-8b", "--device", "cpu")
    assert "attention  layer 1-4  grouped-query: 4 heads, 1 groups, qk 32\n" in done.out
    assert "MLP        layer 1-4  dense: width 448\n" in done.out
    assert "linear   mxfp8     mxfp8   16     16     16\n" in done.out
    assert "qk       mxfp8     -       0      0      0\n" in done.out
    assert "Transformer Engine's of this tree do not read linear, qk\n" in done.err
    assert done.err.endswith("problem: qk says mxfp8, and no such product ran\n")
    assert done.status == 1
    assert digest(tree) == before


@pytest.mark.parametrize("release", ["0.10.0", "0.11.0"])
def test_releases_that_lack_arguments(megatron_tree, quantctl, release):
    done = quantctl("--megatron", megatron_tree(release), "smoke", "llama32-1b", "--linear", "mxfp8")
    assert done.status == 0, done.err
    assert "linear   mxfp8     mxfp8   16     16     16\n" in done.out


# a fork's function of its own beside the stock one, in the way of row-parallel layers only
OWN_LINEAR = """
class OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight):
        ctx.save_for_backward(input, weight)
        return torch.matmul(input, weight.t())

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        return torch.matmul(grad, weight), grad.flatten(0, -2).t().matmul(input.flatten(0, -2))


class RowParallelLinear("""
FORWARD = "    def _forward_impl(self, input, weight, *args, **kwargs):\n"


def bypass_rows(tree: Path) -> None:
    """In a patched tree."""
    file = tree / "megatron/core/tensor_parallel/layers.py"
    before, rows = file.read_text().split("\nclass RowParallelLinear(")
    rows = rows.replace(FORWARD, FORWARD + "        return OwnLinear.apply(input, weight)\n", 1)
    file.write_text(before + "\n" + OWN_LINEAR + rows)


def test_modules_that_bypass_their_selector_are_named(stock_copy, quantctl):
    tree = stock_copy("0.16.1")
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8").status == 0
    bypass_rows(tree)
    done = quantctl("--megatron", tree, "smoke", "llama32-1b")
    assert "linear   mxfp8     mxfp8   8      8      8\n" in done.out
    names = "decoder.layers.0-3.mlp.linear_fc2, decoder.layers.0-3.self_attention.linear_proj"
    assert f"problem: linear says mxfp8, but 8 of 16 modules went another way: {names}\n" in done.err
    assert done.status == 1


def test_a_model_that_does_not_run_is_one_sentence(megatron_tree, quantctl):
    """Experts of another width than the dense layers: GroupedMLP only, in 0.11."""
    asked = ("--megatron", megatron_tree("0.11.0"), "smoke", "deepseek2_lite", "--linear", "mxfp8")
    done = quantctl(*asked)
    assert done.status == 2
    assert "deepseek2_lite does not run on" in done.err
    assert "AssertionError: Please use GroupedMLP or TEGroupedMLP" in done.err
    assert "megatron/core/transformer/moe/experts.py:" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in quantctl(*asked, "--traceback").err


def test_a_module_that_the_tree_needs(stock_copy, quantctl):
    """The shape of 0.7 and 0.8: layers.py's neighbours import what setuptools once had."""
    tree = stock_copy("0.16.1")
    file = tree / "megatron/core/tensor_parallel/random.py"
    file.write_text("import pkg_resources_of_old\n" + file.read_text())
    done = quantctl("--megatron", tree, "smoke", "llama32-1b", "--linear", "mxfp8")
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "the tree needs pkg_resources_of_old, which is not installed" in done.err


@pytest.mark.parametrize(
    ("selectors", "hits", "found"),
    [
        ({}, {}, []),
        ({"linear": "none", "attention": "auto"}, {}, []),
        ({"linear": "mxfp8"}, {"linear": {"mxfp8": {"fprop": 1}}}, []),
        ({"linear": "mxfp8:elem=e4m3"}, {"linear": {"mxfp8": {"fprop": 1}}}, []),
        ({"linear": "mxfp8"}, {"linear": {"mxfp4": {"fprop": 1}}}, ["linear says mxfp8, and no such product ran"]),
        ({"pv": "mxfp4"}, {"qk": {"mxfp4": {"fprop": 1}}}, ["pv says mxfp4, and no such product ran"]),
    ],
)
def test_what_is_a_finding(selectors, hits, found):
    assert _problems(selectors, hits, {}, {}) == found


def test_equal_layers_share_a_line():
    assert _repeats(["a", "b", "b", "a"]) == [["1", "a"], ["2-3", "b"], ["4", "a"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llama4",), "unknown model 'llama4'"),
        (("llama32-1b", "--linear", "mxpf8"), "'mxpf8' is not a format spec"),
        (
            ("llama32-1b", "--linear", "mxfp8; layers 5: none"),
            "linear: `layers 5: none`: `layers 5` of a model that has 4",
        ),
        (("llama32-1b", "--device", "cuda"), "torch sees no CUDA device"),
    ],
)
def test_refusals(quantctl, megatron_tree, arguments, message):
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    done = quantctl("--megatron", megatron_tree("0.16.1"), "smoke", *arguments, env=environment)
    assert done.status == 2
    assert message in done.err
