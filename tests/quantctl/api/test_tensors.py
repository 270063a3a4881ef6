"""quantize, linear and convert: what a selector would compute, and one clear error for bad input."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import quantctl
from quantctl.kernels import quantize_dequantize
from quantctl.kernels.products.linear import quantized_linear
from quantctl.spec.recipes import RECIPES

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
WEIGHT, BIAS = X.repeat(8, 1), X[0, :32].clone()


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[0], X[0, :3]])


def test_quantize_is_the_entry_to_all_formats():
    for spec in ("none", "mxfp8", "nvfp4", "hifp8:scale=tensor"):
        assert torch.equal(quantctl.quantize(X, spec, numpy.int64(0)), quantize_dequantize(X, spec, 0))


def test_linear_is_the_product_of_a_patched_layer():
    ours, theirs = (X.clone().requires_grad_() for _ in range(2))
    quantctl.linear(ours, WEIGHT, BIAS, "mxfp4").sum().backward()
    quantized_linear(theirs, WEIGHT, BIAS, "mxfp4").sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.equal(quantctl.linear(X, WEIGHT, BIAS, "none"), torch.matmul(X, WEIGHT.t()) + BIAS)


WRONG_TENSORS = {
    "None": (None, "x is of type NoneType, not a tensor"),
    "int": (3, "x is of type int, not a tensor"),
    "list": ([1.0], "x is of type list, not a tensor"),
    "numpy": (numpy.ones(3), "x is of type numpy ndarray, not a tensor"),
    "float64": (X.double(), "x is a tensor of float64"),
    "int32": (X.int(), "x is a tensor of int32"),
    "0 dimensions": (torch.tensor(1.0), "x is a single number"),
    "sparse": (X.to_sparse(), "x is a sparse_coo tensor"),
    "nested": (nested(), "x is a nested tensor"),
}


@pytest.mark.parametrize("function", [lambda x: quantctl.quantize(x, "mxfp8"), lambda x: quantctl.linear(x, WEIGHT)])
@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_what_is_no_tensor_for_a_format(case, function):
    x, message = WRONG_TENSORS[case]
    with pytest.raises(quantctl.QuantctlError) as refused:
        function(x)
    assert refused.value.message.startswith(message)
    assert refused.value.hint


WRONG = {
    "axis": (lambda: quantctl.quantize(X, "mxfp8", 2), "no axis 2: its axes are -2 to 1"),
    "a truth for an axis": (lambda: quantctl.quantize(X, "mxfp8", True), "the axis is of type bool"),
    "no axis": (lambda: quantctl.quantize(X, "mxfp8", None), "the axis is of type NoneType"),
    "format": (lambda: quantctl.quantize(X, "mxfp9"), "unknown format 'mxfp9'"),
    "no format": (lambda: quantctl.quantize(X, None), "the format is of type NoneType"),
    "weight the other way round": (lambda: quantctl.linear(X, WEIGHT.t()), "does not go with a weight"),
    "bias": (lambda: quantctl.linear(X, WEIGHT, X[0]), "the bias has shape [64]"),
    "two dtypes": (
        lambda: quantctl.linear(X, WEIGHT.bfloat16()),
        "x is of torch.float32, the weight of torch.bfloat16",
    ),
    "no model": (lambda: quantctl.convert(X, "mxfp8"), "the model is of type Tensor"),
    "a model without layers": (lambda: quantctl.convert(nn.ReLU(), "mxfp8"), "ReLU has no torch.nn.Linear layer"),
    "a name that no layer has": (
        lambda: quantctl.convert(model(), "mxfp8", only="layers.*"),
        "only='layers.*' is the name",
    ),
    "one operand of a tensor": (
        lambda: quantctl.quantize(X, "mxfp4:gradient.round=stochastic"),
        "speaks of single operands or products",
    ),
    "rules of a tensor": (
        lambda: quantctl.quantize(X, "mxfp4; layers 1: none"),
        "holds rules, and one format is meant",
    ),
    "rules of a product": (
        lambda: quantctl.linear(X, WEIGHT, spec="mxfp4; layers 1: none"),
        "one product is in no layer",
    ),
    "an option without effect": (lambda: quantctl.linear(X, WEIGHT, spec="none:weight.round=away"), "says nothing"),
    "a rule that fits nothing": (
        lambda: quantctl.convert(blocks(), "mxfp8; dwon: none"),
        "`dwon: none` fits no module",
    ),
    "a layer that is none": (lambda: quantctl.convert(blocks(), "mxfp8; layers 3: none"), "of a model that has 2"),
    "layers without a list": (lambda: quantctl.convert(model(), "mxfp8; layers 1: none"), "has no nn.ModuleList"),
    "layers of two lists": (
        lambda: quantctl.convert(nn.ModuleDict({"a": blocks(), "b": blocks()}), "mxfp8; layers 1: none"),
        "several lists of layers: a, b",
    ),
    "a phase": (lambda: quantctl.convert(blocks(), "mxfp8; from 10: none"), "a torch model knows no steps"),
    "no name of a layer": (lambda: quantctl.convert(model(), "mxfp8", only=None), "only: None is no name of a layer"),
    "a number for a name": (
        lambda: quantctl.convert(model(), "mxfp8", skip=["gate", 0]),
        "skip: 0 is no name of a layer",
    ),
    "a lazy layer": (lambda: quantctl.convert(nn.Sequential(nn.LazyLinear(2)), "mxfp8"), "0 has no weights yet"),
    "a format of a model": (lambda: quantctl.convert(model(), "fp5"), "unknown format 'fp5'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    call, message = WRONG[case]
    with pytest.raises(quantctl.QuantctlError, match=re.escape(message)):
        call()


def test_a_recipe_stands_for_its_literal():
    literal = RECIPES["deepseek-v3"].linear
    assert torch.equal(quantctl.linear(X, WEIGHT, spec="deepseek-v3"), quantctl.linear(X, WEIGHT, spec=literal))
    done = quantctl.convert(model(), "te-nvfp4")
    assert {layer.spec for layer in done.layers if layer.site == "linear" and not layer.reason} == {
        RECIPES["te-nvfp4"].linear
    }


def blocks() -> nn.Module:
    return nn.ModuleList(
        nn.ModuleDict({"attn": nn.Linear(64, 64), "up": nn.Linear(64, 64), "down": nn.Linear(64, 64)}) for _ in range(2)
    )


def test_rules_hold_for_the_models_own_names_and_layers():
    net = nn.ModuleDict({"model": nn.ModuleDict({"layers": blocks()}), "lm_head": nn.Linear(64, 10)})
    literal = "mxfp8; attention: none; layers -1 down: mxfp4:gradient.round=stochastic; up: wgrad.format=none"
    conversion = quantctl.convert(net, literal, lm_head="mxfp8:gradient.format=none")
    up = "mxfp8:wgrad.format=none"
    assert [layer.spec for layer in conversion.layers] == [
        *("none", up, "mxfp8", "none", up, "mxfp4:gradient.round=stochastic"),
        "mxfp8:gradient.format=none",
    ]
    x = X.clone().requires_grad_()
    net["model"]["layers"][1]["down"](net["model"]["layers"][0]["up"](x)).sum().backward()
    assert conversion.calls() == {
        "linear": {
            "mxfp4:gradient.round=stochastic": {"dgrad": 1, "fprop": 1, "wgrad": 1},
            up: {"dgrad": 1, "fprop": 1, "wgrad": 1},
        }
    }


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 64),
            "gate": nn.Linear(64, 2),
            "block": nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64, bias=False)),
            "attention": nn.MultiheadAttention(64, 2),
            "lm_head": nn.Linear(64, 10),
        }
    )


def test_convert_names_what_became_of_each_layer():
    conversion = quantctl.convert(model(), linear="mxfp8:scale=rceil", lm_head="mxfp4")
    assert [(layer.name, layer.site, layer.spec, layer.reason) for layer in conversion.layers] == [
        ("gate", "linear", "none", "chooses experts"),
        ("block.0", "linear", "mxfp8", ""),
        ("block.2", "linear", "mxfp8", ""),
        ("attention.out_proj", "linear", "none", "is a NonDynamicallyQuantizableLinear"),
        ("lm_head", "lm_head", "mxfp4", ""),
    ]
    assert conversion.converted == ["block.0", "block.2", "lm_head"]
    assert "linear   mxfp8   2       8,192" in str(conversion)


def test_a_converted_model_computes_and_counts_its_products():
    plain, net = model(), model()
    conversion = quantctl.convert(net, linear="mxfp8", only="block.*")
    x = X.clone().requires_grad_()
    net["block"](x).sum().backward()
    assert conversion.calls() == {"linear": {"mxfp8": {"dgrad": 2, "fprop": 2, "wgrad": 2}}}
    expected = quantized_linear(X, plain["block"][0].weight, plain["block"][0].bias, "mxfp8")
    assert torch.equal(net["block"][0](X), expected)
    assert not torch.equal(expected, plain["block"][0](X))
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(copy.deepcopy(net)["block"][0](X), expected)


def test_back_again_and_twice():
    net = model()
    parameters = list(map(id, net.parameters()))
    quantctl.convert(net, linear="mxfp8")
    assert len(quantctl.convert(net, linear="mxfp4").converted) == 2
    assert net["block"][0].extra_repr().endswith("linear=mxfp4")
    again = quantctl.convert(net, only="block.0")
    assert [layer.spec for layer in again.layers if layer.name.startswith("block")] == ["none", "mxfp4"]
    assert [type(net["block"][place]) is nn.Linear for place in (0, 2)] == [True, False]
    assert quantctl.convert(net).converted == []
    assert type(net["block"][2]) is nn.Linear
    assert list(map(id, net.parameters())) == parameters


def test_the_output_layer_is_what_the_model_says_or_what_is_tied():
    tied = nn.ModuleDict({"embedding": nn.Embedding(10, 64), "out": nn.Linear(64, 10, bias=False)})
    tied["out"].weight = tied["embedding"].weight
    assert [layer.site for layer in quantctl.convert(tied, linear="mxfp8").layers] == ["lm_head"]

    class Told(nn.Sequential):
        def get_output_embeddings(self) -> nn.Module:
            return self[0]

    assert [layer.site for layer in quantctl.convert(Told(nn.Linear(3, 3), nn.Linear(3, 3))).layers] == [
        "lm_head",
        "linear",
    ]


def test_the_documented_example_runs(capsys):
    text = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text()
    example = text.partition("## Example")[2].partition("```python\n")[2].partition("```")[0]
    exec(compile(example, "docs/api.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "{'linear': {'mxfp8': {'dgrad': 2, 'fprop': 2, 'wgrad': 2}}}" in printed
    assert "did you mean" in printed
    assert all(f"quantctl.{name}" in text for name in quantctl.__all__)
