"""What recipes are made of, by definition: transforms and signs, headroom, blocks of every shape; what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.formats.codes import decode, encode
from quantctl.kernels.formats.hadamard import transformed
from quantctl.kernels.formats.quantize import quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.measure.statistics import measure
from quantctl.kernels.philox import Draw
from quantctl.kernels.products import linear as products
from quantctl.kernels.products import packed, reuse
from quantctl.kernels.products.attention import qk
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.products.modules import Named
from quantctl.kernels.products.operands import resolve
from quantctl.kernels.products.reuse import quantized_weight
from quantctl.spec import canonical, parse
from quantctl.spec.recipes import RECIPES

DRAW = Draw(5, 77, 1)
SPECS = [
    "mxfp8:block=32x32",
    "mxfp4:block=32x32,round=stochastic",
    "mxfp4:scale=floor,round=stochastic,headroom=3/4",
    "nvfp4:scale=multiply,block=16x16",
    "nvfp4:scale=multiply,round=stochastic,headroom=16/17",
    "nvfp4:extent=row",
    "nvfp4:scale=4over6",
    "fp8",
    "fp8:block=row,elem=e5m2",
    "fp8:block=1x128,scale=pow2",
    "fp8:block=128x128,round=stochastic",
    "int8",
    "int8:block=tensor,round=stochastic",
    "int8:block=32x32",
    "hifp8:scale=fp32,target=224",
    "hifp4",
    "hifp4:round=stochastic",
    "mxfp4:hadamard=16",
    "nvfp4:hadamard=32,signs=random,hadamard_out=fp32",
]
by_spec = pytest.mark.parametrize("spec", SPECS)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sylvester(n: int) -> torch.Tensor:
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_the_transform_is_sylvesters(size) -> None:
    x = torch.randint(-8, 9, (3, 2 * size)).float()  # sums are exact
    spec = parse(f"mxfp8:hadamard={size}")
    expected = (x.double().view(3, 2, size) @ sylvester(size)).view(3, -1)
    assert torch.equal(transformed(x, spec, 1, None).double(), (expected.float() * size**-0.5).double())
    columns = transformed(x.t().contiguous(), spec, 0, None).t()
    assert torch.equal(columns, transformed(x, spec, 1, None))


def test_random_signs_are_fair_shared_and_new_for_each_product() -> None:
    many = torch.stack([philox.random_signs(64, Draw(1, call), torch.device("cpu")) for call in range(400)])
    assert many.abs().eq(1).all()
    # a sum of 25,600 fair signs leaves 6 standard deviations once in 5e8 times
    assert abs(many.sum().item()) < 6 * math.sqrt(many.numel())
    assert torch.equal(philox.random_signs(64, Draw(1, 9, signs=3), torch.device("cpu")), many[3])
    assert len({tuple(row) for row in many.tolist()}) == 400


@pytest.mark.parametrize("signs", ["none", "fixed", "random"])
@pytest.mark.parametrize("site", ["linear", "qk"])
def test_the_product_is_unchanged_but_for_rounding(signs, site) -> None:
    """FP8 of three mantissa bits: each element is off by at most 2^-4 of itself, and 2^-10 of its block's largest."""
    spec = f"fp8:block=row,hadamard=16,signs={signs},bwd=quantized"
    x, w, dy = randn(64, 32), randn(48, 32, seed=1), randn(64, 48, seed=2)
    x.requires_grad_()
    w.requires_grad_()
    y = quantized_linear(x, w, None, spec) if site == "linear" else qk(x[None], w.t()[None], 1.0, spec)[0]
    y.backward(dy)
    x_in, w_in = x.detach(), w.detach()
    for actual, a, b in ((y, x_in, w_in.t()), (x.grad, dy, w_in), (w.grad, dy.t(), x_in)):
        # a transform keeps norms: Cauchy's inequality bounds the error of each sum, whatever its basis
        norms = a.norm(dim=1, keepdim=True) * b.norm(dim=0, keepdim=True)
        assert ((actual - a @ b).abs() <= 2.2 * 2**-4 * norms).all()


def test_recomputed_products_have_their_signs_again() -> None:
    spec = RECIPES["mxfp4-sr-rht"].linear
    x, w = randn(64, 64).requires_grad_(), randn(64, 64, seed=1).requires_grad_()
    results = []
    for recomputed in (False, True):
        torch.manual_seed(4)
        x.grad = w.grad = None

        def layer(x: torch.Tensor) -> torch.Tensor:
            return quantized_linear(x, w, None, spec)

        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False) if recomputed else layer(x)
        state = torch.get_rng_state()
        y.sum().backward()
        results.append((y.detach(), x.grad, w.grad))
        torch.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("spec", ["mxfp4:scale=floor,round=stochastic,headroom=3/4",
                                  "nvfp4:scale=multiply,round=stochastic,headroom=16/17"])  # fmt: skip
def test_headroom_leaves_no_bias_where_a_block_is_largest(spec) -> None:
    x = randn(3200, 128).clamp(-2.9, 2.9)
    top = torch.zeros_like(x, dtype=torch.bool)
    top[:, ::16] = True
    x[:, ::16] = torch.linspace(3, 4, 3200)[:, None]  # a part of them is clipped without headroom
    error = (quantize_dequantize(x, spec, rng=DRAW).double() - x)[top]
    # neighbours there are at most 2 * 4 / 6 * 17 / 16 apart, and a draw's deviation is half of that; 4 of the mean's
    assert abs(error.mean().item()) < 4 * 0.71 / math.sqrt(len(error))


@by_spec
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_codes_and_packed_matrices_give_the_values(spec, axis, dtype, same) -> None:
    x = (randn(64, 96) * randn(64, 1, seed=3).exp()).to(dtype)
    x[5, 7] = torch.nan if "tensor" not in spec and spec != "fp8" else 0.0
    values = quantize_dequantize(x, spec, axis, rng=DRAW)
    same(decode(encode(x, spec, axis, rng=DRAW)), values)
    kept, layout = packed.packed_matrix(x, parse(spec), axis, DRAW)
    same(packed.dequantize(kept, layout), values)
    assert sum(t.nbytes for t in kept if t is not None) == packed.nbytes(layout)
    assert [None if t is None else tuple(t.shape) for t in kept] == list(packed.shapes(layout))
    assert measure(x, spec, axis).numel == x.numel()


@by_spec
def test_strides_and_tails(spec, same) -> None:
    x = randn(2, 40, 72)
    if "hadamard" in spec:
        x = randn(2, 32, 64)
    for axis in (1, 2):
        plain = quantize_dequantize(x, spec, axis, rng=DRAW)
        if "stochastic" not in spec:  # an element's number follows from its place
            turned = quantize_dequantize(x.transpose(1, 2), spec, 3 - axis, rng=DRAW)
            same(turned.transpose(1, 2).contiguous(), plain)
        whole = quantize_dequantize(x.repeat(1, 1, 2)[:, :, : x.shape[2]], spec, axis, rng=DRAW)
        same(whole.contiguous(), plain)
    assert quantize_dequantize(x[:, :0], spec, 2).shape == (2, 0, x.shape[2])


def test_squares_are_one_along_both_axes() -> None:
    x = randn(48, 80)
    along = quantize_dequantize_along(x, "nvfp4:scale=multiply,block=16x16", (1, 0))
    assert along[0] is along[1]
    squares = [quantize_dequantize(x, "mxfp8:block=32x32", axis) for axis in (0, 1)]
    assert torch.equal(*squares)
    with pytest.raises(QuantctlError, match="last two axes"):
        quantize_dequantize(randn(2, 32, 32), "mxfp8:block=32x32", 0)


def test_a_weight_in_squares_is_quantized_once(monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "1")
    weight = randn(64, 64).requires_grad_()
    specs = resolve(RECIPES["te-nvfp4"].linear, "linear")
    assert quantized_weight(weight, specs, "fprop") is quantized_weight(weight, specs, "dgrad")
    random = resolve(RECIPES["mxfp4-sr-rht"].linear, "linear")
    draws = [quantized_weight(weight, random, "dgrad", None, call) for call in (1, 1, 2)]
    assert not torch.equal(draws[0], draws[2])
    reuse.forget()


def test_tokens_are_flattened_before_squares_are_laid() -> None:
    spec = "mxfp8:block=32x32"
    x, w = randn(6, 16, 64) * randn(6, 16, 1, seed=4).mul(3).exp(), randn(32, 64, seed=1)
    flat = quantized_linear(x.view(96, 64), w, None, spec)
    assert torch.equal(quantized_linear(x, w, None, spec).view(96, 32), flat)
    turned = x.transpose(0, 1)
    expected = quantized_linear(turned.reshape(96, 64), w, None, spec)
    assert torch.equal(quantized_linear(turned, w, None, spec).reshape(96, 32), expected)
    assert not torch.equal(expected.view(16, 6, 32).transpose(0, 1), flat.view(6, 16, 32))


REFUSED = {
    "wgrad.hadamard of one operand": ("nvfp4:wgrad.gradient.hadamard=16", "say it of both"),
    "beside an operand without a format": ("mxfp4:wgrad.hadamard=16,wgrad.input.format=none", "say it of both"),
    "signs without a transform": ("mxfp4:signs=random", "hadamard=16 or"),
    "fixed signs of another size": ("mxfp4:hadamard=32,signs=fixed", "hadamard=16"),
    "headroom of nearest rounding": ("mxfp4:scale=floor,headroom=3/4", "round=stochastic"),
    "headroom under another scale": ("mxfp4:round=stochastic,headroom=3/4", "scale=floor"),
    "4over6 rounded stochastically": ("nvfp4:scale=4over6,round=stochastic", "round=nearest"),
    "rows in squares": ("nvfp4:block=16x16,extent=row", "block=1x16"),
    "a target without its scale": ("hifp8:target=224", "scale=fp32"),
    "the forward's values behind a transform": ("mxfp4:hadamard=16,bwd=dequantized", "bwd=quantized"),
    "the same by source": ("mxfp4:hadamard=16,dgrad.weight.source=forward", "without one"),
    "a size that there is none of": ("mxfp4:hadamard=8", "hadamard=16"),
}


@pytest.mark.parametrize(("text", "hint"), REFUSED.values(), ids=REFUSED)
def test_refused_when_a_literal_is_read(text, hint) -> None:
    with pytest.raises(QuantctlError) as refusal:
        canonical(text)
    assert text in refusal.value.message
    assert hint in refusal.value.hint


def test_sizes_are_refused_before_the_first_product_with_the_modules_name() -> None:
    layer, x = Named("decoder.layers.0.mlp.linear_fc1"), randn(24, 64).requires_grad_()
    spec = RECIPES["te-nvfp4"].linear
    with pytest.raises(QuantctlError, match=r"decoder.layers.0.mlp.linear_fc1 .*hadamard=16 .* 24 tokens that wgrad"):
        quantized_linear(x, randn(32, 64), None, spec, layer=layer)
    with pytest.raises(QuantctlError, match="48 in-features that fprop"):
        quantized_linear(randn(32, 48), randn(32, 48), None, "mxfp4:hadamard=32")


def test_an_experts_tokens_are_filled_up_and_the_product_is_that_of_zeros_behind_them(same) -> None:
    spec = "fp8:block=1x128,wgrad.hadamard=16"
    x, w = randn(20, 32).requires_grad_(), randn(48, 32, seed=1).requires_grad_()
    expert = Named("decoder.layers.1.mlp.experts.local_experts.*.linear_fc1")
    quantized_linear(x, w, None, spec, layer=expert).backward(randn(20, 48, seed=2))
    filled = torch.nn.functional.pad(x.detach(), (0, 0, 0, 12))
    other = w.detach().clone().requires_grad_()
    quantized_linear(filled, other, None, spec).backward(torch.nn.functional.pad(randn(20, 48, seed=2), (0, 0, 0, 12)))
    same(w.grad, other.grad)


@pytest.mark.parametrize("recipe", ["te-nvfp4", "deepseek-v3", "amd-mxfp4"])
def test_experts_are_computed_as_each_alone(recipe, same) -> None:
    spec = RECIPES[recipe].linear.replace("gradient.round=stochastic,", "")
    x, counts = randn(50, 64).requires_grad_(), [16, 0, 34]
    weights = [randn(32, 64, seed=i).requires_grad_() for i in range(3)]
    y = grouped_linear(x, weights, counts, spec)
    y.backward(randn(50, 32, seed=9))
    for part, out, grad, dx, weight in zip(
        *(t.split(counts) for t in (x.detach(), y.detach(), randn(50, 32, seed=9), x.grad)), weights, strict=True
    ):
        alone, own = part.clone().requires_grad_(), weight.detach().clone().requires_grad_()
        result = quantized_linear(alone, own, None, spec, layer=Named("experts"))
        result.backward(grad)
        same(out, result.detach())
        same(dx, alone.grad)
        same(weight.grad, own.grad)


def test_recipes_are_canonical_and_each_its_own() -> None:
    assert all(canonical(recipe.linear) == recipe.linear for recipe in RECIPES.values())
    assert canonical("mxfp4:hadamard=16,wgrad.hadamard=none") == "mxfp4:hadamard=16,wgrad.hadamard=none"
    assert len({recipe.linear for recipe in RECIPES.values()}) == len(RECIPES)
    assert products.literal(RECIPES["experts-mxfp4"].linear).rules
