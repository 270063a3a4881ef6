"""QK and PV with autograd against an independent emulation: difference 0.0, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.measure import hits
from quantctl.kernels.products import attention

FORMATS = ["mxfp8", "mxfp8:elem=e5m2,scale=floor", "mxfp4", "nvfp4", "hifp8"]
BWD = ["quantized", "dequantized", "high_precision"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALE = 0.17
# heads * batch, queries, keys, head dimension
SHAPES = {"blocks": (4, 64, 96, 32), "tails": (3, 37, 41, 40)}

by_format = pytest.mark.parametrize("spec", FORMATS)
by_bwd = pytest.mark.parametrize("bwd", BWD)
by_shape = pytest.mark.parametrize("shape", SHAPES)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random(*size: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_bwd(spec: str, bwd: str) -> str:
    return f"{spec}{',' if ':' in spec else ':'}bwd={bwd}"


def check(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max().item() == 0.0


def gradients(emulate, spec: str, bwd: str, a: Tensor, b: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
    """Of A B without any factor, A [n, r, k], B [n, k, c]: dA = dC B^T reduces c, dB = A^T dC reduces r."""
    if bwd == "quantized":
        return (
            torch.bmm(emulate(dc, spec, 2), emulate(b, spec, 2).transpose(1, 2)),
            torch.bmm(emulate(a, spec, 1).transpose(1, 2), emulate(dc, spec, 1)),
        )
    if bwd == "dequantized":
        a, b = emulate(a, spec, 2), emulate(b, spec, 1)
    return torch.bmm(dc, b.transpose(1, 2)), torch.bmm(a.transpose(1, 2), dc)


@by_format
@by_bwd
@by_shape
@by_dtype
def test_qk_differs_by_zero_from_the_emulation(spec, bwd, shape, dtype, emulate) -> None:
    n, sq, sk, hn = SHAPES[shape]
    # as Megatron passes them: [sq, b*np, hn] transposed
    q_leaf = random(sq, n, hn, dtype=dtype, seed=1).requires_grad_()
    k_leaf = random(sk, n, hn, dtype=dtype, seed=2).requires_grad_()
    q, k_t = q_leaf.transpose(0, 1), k_leaf.transpose(0, 1).transpose(1, 2)
    ds = random(n, sq, sk, dtype=dtype, seed=3)
    scores = attention.qk(q, k_t, SCALE, with_bwd(spec, bwd))
    actual = torch.autograd.grad(scores, (q, k_t), ds)

    q, k_t = q.detach(), k_t.detach()
    product = torch.baddbmm(ds, emulate(q, spec, 2), emulate(k_t, spec, 1), beta=0.0, alpha=SCALE)
    dq, dk = gradients(emulate, spec, bwd, q, k_t, ds)
    check([scores, *actual], [product, dq * SCALE, dk * SCALE])


@by_format
@by_bwd
@by_shape
@by_dtype
def test_pv_differs_by_zero_from_the_emulation(spec, bwd, shape, dtype, emulate) -> None:
    n, sq, sk, hv = SHAPES[shape]
    p = random(n, sq, sk, dtype=dtype, seed=1).softmax(-1).requires_grad_()
    v = random(sk, n, hv, dtype=dtype, seed=2).transpose(0, 1).requires_grad_()
    do = random(n, sq, hv, dtype=dtype, seed=3)
    context = attention.pv(p, v, with_bwd(spec, bwd))
    actual = torch.autograd.grad(context, (p, v), do)

    p, v = p.detach(), v.detach()
    expected = torch.bmm(emulate(p, spec, 2), emulate(v, spec, 1))
    check([context, *actual], [expected, *gradients(emulate, spec, bwd, p, v, do)])


@by_dtype
def test_gradients_in_high_precision_are_those_of_stock_autograd(dtype) -> None:
    """Where the forward's operands are exact in the format, everything equals the stock flow bit for bit."""
    n, sq, sk, hn = SHAPES["tails"]
    q, k_t = (random(*s, dtype=dtype, seed=4).sign().requires_grad_() for s in ((n, sq, hn), (n, hn, sk)))
    v = random(n, sk, hn, dtype=dtype, seed=5).sign().requires_grad_()
    do = random(n, sq, hn, dtype=dtype, seed=6)
    scores = attention.qk(q, k_t, SCALE, "mxfp8:bwd=high_precision")
    stock = torch.baddbmm(torch.empty(n, sq, sk, dtype=dtype), q, k_t, beta=0.0, alpha=SCALE)
    context = attention.pv(scores.sign(), v, "mxfp8:bwd=high_precision")
    stock_context = torch.bmm(scores.sign(), v)
    check([scores, context], [stock, stock_context])
    ds = random(n, sq, sk, dtype=dtype, seed=7)
    check(list(torch.autograd.grad(scores, (q, k_t), ds)), list(torch.autograd.grad(stock, (q, k_t), ds)))
    check([*torch.autograd.grad(context, v, do)], [*torch.autograd.grad(stock_context, v, do)])


def test_the_default_is_straight_through() -> None:
    n, sq, sk, hn = SHAPES["tails"]
    q, k_t = random(n, sq, hn, dtype=torch.float32, seed=1), random(n, hn, sk, dtype=torch.float32, seed=2)
    ds = random(n, sq, sk, dtype=torch.float32, seed=3)

    def run(spec: str) -> list[Tensor]:
        a, b = q.clone().requires_grad_(), k_t.clone().requires_grad_()
        return list(torch.autograd.grad(attention.qk(a, b, SCALE, spec), (a, b), ds))

    check(run("mxfp4"), run("mxfp4:bwd=dequantized"))
    assert not torch.equal(run("mxfp4")[0], run("mxfp4:bwd=quantized")[0])


def test_grouped_queries_quantize_the_same_before_and_after_the_expansion() -> None:
    k = random(41, 2, 40, dtype=torch.bfloat16, seed=1)
    q = random(8, 37, 40, dtype=torch.bfloat16, seed=2)
    expanded = k.repeat_interleave(4, dim=1)
    after = attention.qk(q, expanded.transpose(0, 1).transpose(1, 2), SCALE, "mxfp4")
    group = k.transpose(0, 1).transpose(1, 2)
    for head in range(8):
        one = attention.qk(q[head : head + 1], group[head // 4 : head // 4 + 1], SCALE, "mxfp4")
        assert torch.equal(after[head], one[0])


@pytest.mark.parametrize("spec", ["none", "bf16"])
def test_none_is_the_stock_product_with_stock_gradients(spec) -> None:
    n, sq, sk, hn = SHAPES["tails"]
    q = random(n, sq, hn, dtype=torch.bfloat16, seed=1).requires_grad_()
    k_t = random(n, hn, sk, dtype=torch.bfloat16, seed=2).requires_grad_()
    v = random(n, sk, hn, dtype=torch.bfloat16, seed=3).requires_grad_()
    before = hits.snapshot()

    def gradients_of(scores: Tensor, pv) -> list[Tensor]:
        return list(torch.autograd.grad(pv(scores.softmax(-1), v).square().sum(), (q, k_t, v)))

    stock = torch.baddbmm(torch.empty(n, sq, sk, dtype=torch.bfloat16), q, k_t, beta=0.0, alpha=SCALE)
    actual = gradients_of(attention.qk(q, k_t, SCALE, spec), lambda p, v: attention.pv(p, v, spec))
    check(actual, gradients_of(stock, torch.bmm))
    assert hits.snapshot() == before


@pytest.mark.parametrize("format_", ["mxfp8", "mxfp4", "hifp8"])
def test_straight_through_sees_the_forwards_stochastic_operands(format_) -> None:
    spec = f"{format_}:round=stochastic"
    eye = torch.eye(64).repeat(2, 1, 1)
    data = random(2, 64, 64, dtype=torch.float32, seed=1)
    p, v = data.clone().requires_grad_(), eye.clone().requires_grad_()
    context = attention.pv(p, v, spec)
    context.backward(eye)
    assert torch.equal(v.grad, context.transpose(1, 2))  # dV = Pq^T
    p, v = eye.clone().requires_grad_(), data.clone().requires_grad_()
    context = attention.pv(p, v, spec)
    context.backward(eye)
    assert torch.equal(p.grad, context.transpose(1, 2))  # dP = Vq^T


@pytest.mark.parametrize("site", ["qk", "pv"])
def test_calls_are_counted_by_operand(site) -> None:
    a, b = torch.randn(2, 33, 32, requires_grad=True), torch.randn(2, 32, 34, requires_grad=True)
    spec = "mxfp4:scale=ceil"

    def calls() -> dict[str, int]:
        return {"fprop": 0, "dgrad": 0, "wgrad": 0} | hits.snapshot().get(site, {}).get(spec, {})

    def product(a: Tensor) -> Tensor:
        return attention.qk(a, b, SCALE, spec) if site == "qk" else attention.pv(a, b, spec)

    before = calls()
    product(a)
    product(a).sum().backward()
    assert {p: n - before[p] for p, n in calls().items()} == {"fprop": 2, "dgrad": 1, "wgrad": 1}
    product(a.detach()).sum().backward()
    assert {p: n - before[p] for p, n in calls().items()} == {"fprop": 3, "dgrad": 1, "wgrad": 2}


def test_an_unknown_type_is_refused_at_run_time() -> None:
    for call in (
        lambda: attention.qk(torch.ones(1, 2, 3), torch.ones(1, 3, 2), 1.0, "fp5"),
        lambda: attention.pv(torch.ones(1, 2, 3), torch.ones(1, 3, 2), "fp5"),
    ):
        with pytest.raises(QuantctlError, match="fp5"):
            call()
