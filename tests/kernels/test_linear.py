"""The linear products against an independent emulation: difference 0.0, gradients included."""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.products import linear, reuse
from quantctl.kernels.products.linear import quantized_linear

FORMATS = ["mxfp8", "mxfp8:elem=e5m2,scale=floor", "mxfp6", "mxfp4", "mxfp4:scale=even", "nvfp4", "hifp8"]
BWD = ["quantized", "dequantized", "high_precision"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# leading dimensions, in, out; the second has tails in all three reductions
SHAPES = {"blocks": ((16, 4), 64, 96), "tails": ((9, 5), 70, 50), "2-D": ((33,), 32, 40)}

by_bwd = pytest.mark.parametrize("bwd", BWD)


def operands(shape: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    leading, n_in, n_out = SHAPES[shape]
    x, w, b, dy = (
        torch.randn(size, generator=generator).to(dtype)
        for size in ((*leading, n_in), (n_out, n_in), (n_out,), (*leading, n_out))
    )
    return x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), dy


def with_bwd(spec: str, bwd: str) -> str:
    return f"{spec}{',' if ':' in spec else ':'}bwd={bwd}"


@pytest.mark.parametrize("spec", FORMATS)
@by_bwd
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_gradients_differ_by_zero_from_the_emulation(spec, bwd, shape, dtype, emulate) -> None:
    x, w, b, dy = operands(shape, dtype)
    y = quantized_linear(x, w, b, with_bwd(spec, bwd))
    y.backward(dy)

    xq, wq = emulate(x, spec, -1), emulate(w, spec, -1)
    x_2d, dy_2d = x.detach().flatten(0, -2), dy.flatten(0, -2)
    dgrad, wgrad = {
        "quantized": (
            (emulate(dy, spec, -1), emulate(w, spec, 0)),
            (emulate(dy_2d, spec, 0), emulate(x_2d, spec, 0)),
        ),
        "dequantized": ((dy, wq), (dy_2d, xq.flatten(0, -2))),
        "high_precision": ((dy, w.detach()), (dy_2d, x_2d)),
    }[bwd]
    for actual, expected in (
        (y, torch.matmul(xq, wq.t()) + b.detach()),
        (x.grad, dgrad[0].matmul(dgrad[1])),
        (w.grad, wgrad[0].t().matmul(wgrad[1])),
        (b.grad, dy_2d.sum(dim=0)),
    ):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max().item() == 0.0


@pytest.mark.parametrize("spec", ["none", "bf16"])
def test_none_is_the_plain_product(spec) -> None:
    x, w, b, dy = operands("tails", torch.bfloat16)
    before = hits.snapshot()
    y = quantized_linear(x, w, b, spec)
    y.backward(dy)
    assert torch.equal(y, torch.matmul(x, w.t()) + b)
    assert torch.equal(x.grad, dy.matmul(w))
    assert torch.equal(w.grad, dy.flatten(0, 1).t().matmul(x.flatten(0, 1)))
    assert hits.snapshot() == before


@pytest.mark.parametrize("format_", ["mxfp8", "mxfp4", "hifp8"])
def test_dequantized_backward_sees_the_forwards_stochastic_operands(format_) -> None:
    """With an identity as the other operand, each product shows its operand: X in Y and dW, W in Y and dX."""
    spec = f"{format_}:round=stochastic,bwd=dequantized"
    generator = torch.Generator().manual_seed(0)
    eye, data = torch.eye(64), torch.randn(64, 64, generator=generator)

    x, w = data.clone().requires_grad_(), eye.clone().requires_grad_()
    y = quantized_linear(x, w, None, spec)
    y.backward(eye)
    assert torch.equal(w.grad, y)  # dW = dY^T Xq with dY = 1
    assert not torch.equal(y, quantized_linear(x, w, None, spec))

    x, w = eye.clone().requires_grad_(), data.clone().requires_grad_()
    y = quantized_linear(x, w, None, spec)
    y.backward(eye)
    assert torch.equal(x.grad, y.t())  # dX = dY Wq, and Y = Wq^T


def test_quantized_backward_draws_anew() -> None:
    spec = "mxfp4:round=stochastic"
    eye, data = torch.eye(64), torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    x, w = data.clone().requires_grad_(), eye.clone().requires_grad_()
    y = quantized_linear(x, w, None, spec)
    y.backward(eye)
    assert not torch.equal(w.grad, y)


def test_only_the_gradients_asked_for_are_computed() -> None:
    x, w, _, dy = operands("tails", torch.float32)
    before = hits.snapshot().get("lm_head", {}).get("mxfp4", {})
    quantized_linear(x, w.detach(), None, "mxfp4", "lm_head").backward(dy)
    after = hits.snapshot()["lm_head"]["mxfp4"]
    assert {product: after[product] - before.get(product, 0) for product in after} == {"fprop": 1, "dgrad": 1}


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4:round=stochastic", "nvfp4", "hifp8:scale=tensor"])
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_gives_the_same_training_step(spec, shape, monkeypatch) -> None:
    """Through the kernels of both directions, in Triton's interpreter."""

    def step(kernels: str) -> list[Tensor]:
        monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
        reuse.forget()
        torch.manual_seed(5)
        x, w, b, dy = operands(shape, torch.bfloat16)
        y = quantized_linear(x, w, b, spec)
        y.backward(dy)
        return [y.detach(), x.grad, w.grad, b.grad]

    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert all(map(torch.equal, step("triton"), step("reference")))
    torch.set_rng_state(before)


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4", "mxfp6:elem=e2m3"])
def test_shards_in_whole_blocks_have_the_operands_of_the_whole(spec, same) -> None:
    """Tensor parallelism splits W by rows or columns, and X and dY with them; sequence parallelism splits tokens."""
    whole = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    for split, axis, ranks in itertools.product((0, 1), (0, 1), (2, 4)):
        shards = [quantize_dequantize(shard, spec, axis) for shard in whole.chunk(ranks, dim=split)]
        same(torch.cat(shards, dim=split), quantize_dequantize(whole, spec, axis))


@by_bwd
def test_pieces_called_as_a_patched_layer_calls_them(bwd, emulate) -> None:
    """ctx is whatever autograd passes; the 2-D operands of wgrad are made by Megatron from the forward's [s, b, in]."""
    x, w, _, dy = (t.detach() for t in operands("tails", torch.bfloat16))
    spec = with_bwd("mxfp8", bwd)
    ctx = SimpleNamespace(quant_site="lm_head", quant_type=spec, grad_output_buffer=None)
    y = linear.fprop(ctx, x, w)
    assert torch.equal(y, emulate(x, "mxfp8").matmul(emulate(w, "mxfp8").t()))
    dx = linear.dgrad(ctx, dy, w)
    assert dx.shape == x.shape
    dy_2d, x_2d = linear.wgrad_operands(ctx, dy.flatten(0, 1), x.flatten(0, 1))
    expected = {
        "quantized": emulate(x.flatten(0, 1), "mxfp8", 0),
        "dequantized": emulate(x.flatten(0, 1), "mxfp8", 1),
        "high_precision": x.flatten(0, 1),
    }[bwd]
    assert torch.equal(x_2d, expected)
    assert (torch.equal(dy_2d, dy.flatten(0, 1))) == (bwd != "quantized")


def test_deferred_embedding_wgrad_is_refused_unless_nothing_is_quantized() -> None:
    x, w = torch.randn(4, 32), torch.randn(8, 32)
    ctx = SimpleNamespace(quant_site="lm_head", quant_type="mxfp8", grad_output_buffer=[])
    with pytest.raises(QuantctlError, match="--defer-embedding-wgrad-compute") as caught:
        linear.fprop(ctx, x, w)
    assert "set lm_head to none" in caught.value.hint
    ctx.quant_type = "none"
    assert torch.equal(linear.fprop(ctx, x, w), x @ w.t())


def test_an_unknown_type_is_refused_at_run_time() -> None:
    ctx = SimpleNamespace(quant_site="linear", quant_type="mxpf8")
    with pytest.raises(QuantctlError, match="mxpf8"):
        linear.fprop(ctx, torch.randn(4, 32), torch.randn(8, 32))


def test_weights_and_inputs_are_not_written() -> None:
    x, w, b, dy = operands("tails", torch.float32)
    kept = [t.detach().clone() for t in (x, w, b, dy)]
    quantized_linear(x, w, b, "mxfp4").backward(dy)
    assert all(map(torch.equal, (x, w, b, dy), kept))


def test_gradient_of_a_quadratic_is_close_to_the_exact_one() -> None:
    """A sanity check that shares no formula: E4M3's largest relative error is 2^-4 an operand, and there are two."""
    x, w, _, _ = operands("blocks", torch.float32)
    exact = torch.autograd.grad((x @ w.t()).square().sum() / 2, (x, w))
    actual = torch.autograd.grad(quantized_linear(x, w, None, "mxfp8").square().sum() / 2, (x, w))
    for a, e in zip(actual, exact, strict=True):
        assert (a - e).norm() < 2 * 2.0**-4 * e.norm()


def test_dequantized_operands_are_those_of_the_format() -> None:
    x, w, _, _ = operands("blocks", torch.bfloat16)
    y = quantized_linear(x, w, None, "hifp8:scale=tensor")
    assert torch.equal(
        y,
        quantize_dequantize(x, "hifp8:scale=tensor") @ quantize_dequantize(w, "hifp8:scale=tensor").t(),
    )
