"""Specs that say operands and products apart: each product with its two operands' own formats, difference 0.0."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from quantctl.errors import QuantctlError
from quantctl.kernels.formats import quantize
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.philox import next_draw
from quantctl.kernels.products import attention, fused_attention, fused_pv, grouped, linear, reuse
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.products.modules import Named

# numpy, in which Triton's interpreter computes, reports what IEEE 754 says about Inf and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

E5M2 = "mxfp8:elem=e5m2"
SR = "mxfp4:round=stochastic"
# literal -> X and W of fprop, dY and W of dgrad, dY and X of wgrad; `<` where it begins with the forward's values
LINEAR = {
    "mxfp8:gradient.elem=e5m2": ("mxfp8", "mxfp8", E5M2, "mxfp8", E5M2, "mxfp8"),
    "mxfp4:wgrad.format=mxfp8": ("mxfp4", "mxfp4", "mxfp4", "mxfp4", "mxfp8", "mxfp8"),
    "none:dgrad.format=mxfp4": ("none", "none", "mxfp4", "mxfp4", "none", "none"),
    "mxfp8:fprop.format=none": ("none", "none", "mxfp8", "mxfp8", "mxfp8", "mxfp8"),
    "mxfp4:weight.format=none": ("mxfp4", "none", "mxfp4", "none", "mxfp4", "mxfp4"),
    "mxfp8:wgrad.input.format=nvfp4": ("mxfp8", "mxfp8", "mxfp8", "mxfp8", "mxfp8", "nvfp4"),
    "mxfp8:wgrad.bwd=high_precision": ("mxfp8", "mxfp8", "mxfp8", "mxfp8", "none", "none"),
    "mxfp8:dgrad.bwd=dequantized": ("mxfp8", "mxfp8", "none", "<none", "mxfp8", "mxfp8"),
    "mxfp8:wgrad.input.source=forward": ("mxfp8", "mxfp8", "mxfp8", "mxfp8", "mxfp8", "<mxfp8"),
    "mxfp4:dgrad.weight.source=forward": ("mxfp4", "mxfp4", "mxfp4", "<mxfp4", "mxfp4", "mxfp4"),
    "nvfp4:gradient.format=hifp8": ("nvfp4", "nvfp4", "hifp8", "nvfp4", "hifp8", "nvfp4"),
    "mxfp8:bwd=dequantized,wgrad.gradient.format=mxfp6": ("mxfp8", "mxfp8", "none", "<none", "mxfp6", "<none"),
    "mxfp4:gradient.round=stochastic": ("mxfp4", "mxfp4", SR, "mxfp4", SR, "mxfp4"),
    "mxfp4:dgrad.gradient.round=stochastic": ("mxfp4", "mxfp4", SR, "mxfp4", "mxfp4", "mxfp4"),
    "mxfp4:input.round=stochastic,wgrad.input.source=forward": (SR, "mxfp4", "mxfp4", "mxfp4", "mxfp4", "<" + SR),
}
NEAREST = [text for text in LINEAR if "stochastic" not in text]
# Q and K of fprop, dS and K of dgrad, dS and Q of wgrad; of pv: P and V, dO and V, dO and P
QK = {
    "mxfp8:fprop.key.format=mxfp4": ("mxfp8", "mxfp4", "none", "<none", "none", "<none"),
    "mxfp8:key.format=mxfp4": ("mxfp8", "mxfp4", "none", "mxfp4", "none", "<none"),
    "none:dgrad.format=mxfp4": ("none", "none", "mxfp4", "mxfp4", "none", "none"),
    "mxfp8:gradient.format=mxfp8,gradient.elem=e5m2": ("mxfp8", "mxfp8", E5M2, "<none", E5M2, "<none"),
    "mxfp4:wgrad.bwd=quantized": ("mxfp4", "mxfp4", "none", "<none", "mxfp4", "mxfp4"),
    "mxfp4:dgrad.key.format=mxfp8,dgrad.key.source=forward": ("mxfp4", "mxfp4", "none", "<mxfp8", "none", "<none"),
    "mxfp4:bwd=quantized,gradient.round=stochastic": ("mxfp4", "mxfp4", SR, "mxfp4", SR, "mxfp4"),
}
PV = {
    "mxfp8:fprop.value.format=mxfp4": ("mxfp8", "mxfp4", "none", "<none", "none", "<none"),
    "mxfp4:probabilities.format=none": ("none", "mxfp4", "none", "<none", "none", "none"),
    "hifp8:dgrad.bwd=quantized,wgrad.bwd=high_precision": ("hifp8", "hifp8", "hifp8", "hifp8", "none", "none"),
    "nvfp4:wgrad.probabilities.format=mxfp8": ("nvfp4", "nvfp4", "none", "<none", "none", "mxfp8"),
}


@pytest.fixture(autouse=True)
def _draws():
    before = torch.get_rng_state()
    torch.manual_seed(5)
    yield
    torch.set_rng_state(before)


class Emulation:
    """The operands of the three products of A B, in the order in which the products draw."""

    def __init__(self, slots: tuple[str, ...], axes: tuple[int, ...], a: Tensor, b: Tensor) -> None:
        """axes: of A and B in fprop, of the gradient and B in dgrad, of the gradient and A in wgrad."""
        self.specs, self.axes, self.a, self.b = [slot.lstrip("<") for slot in slots], axes, a, b
        self.begins = [slot.startswith("<") for slot in slots]
        self.draws = [next_draw() if "stochastic" in self.specs[i] else None for i in (0, 1)]
        self.fprop = self._of(a, 0), self._of(b, 1)

    def draw_tokens(self) -> None:
        """As linear layers do in their forward."""
        self.draws += [None, None, None, next_draw() if "stochastic" in self.specs[5] else None]

    def _of(self, x: Tensor, slot: int) -> Tensor:
        draw = self.draws[slot] if slot < len(self.draws) else None
        return quantize_dequantize(x, self.specs[slot], self.axes[slot], rng=draw)

    def backward(self, grad: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        for_a, for_b = self._of(grad, 2), self._of(grad, 4)
        b = self._of(self.fprop[1] if self.begins[3] else self.b, 3)
        a = self._of(self.fprop[0] if self.begins[5] else self.a, 5)
        return (for_a, b), (for_b, a)


def operands(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(size, generator=generator).to(dtype) for size in ((45, 70), (50, 70), (45, 50)))
    return x.requires_grad_(), w.requires_grad_(), dy


def expected(slots: tuple[str, ...]) -> list[Tensor]:
    """Y, dX and dW."""
    x, w, dy = (t.detach() for t in operands())
    of = Emulation(slots, (1, 1, 1, 0, 0, 0), x, w)
    of.draw_tokens()
    (dy_x, w_in), (dy_w, x_in) = of.backward(dy)
    return [of.fprop[0] @ of.fprop[1].t(), dy_x @ w_in, dy_w.t() @ x_in]


def step(text: str, site: str = "linear") -> list[Tensor]:
    x, w, dy = operands()
    y = quantized_linear(x, w, None, text, site)
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy)]


def check(actual, expected) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max().item() == 0.0


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize("text", LINEAR)
def test_linear(text, kernels, monkeypatch) -> None:
    wanted = expected(LINEAR[text])
    monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
    torch.manual_seed(5)
    check(step(text, "linear" if kernels == "reference" else "lm_head"), wanted)


@pytest.mark.parametrize("text", ["mxfp8:wgrad.input.format=nvfp4", "mxfp4:gradient.round=stochastic"])
def test_linear_by_triton(text, monkeypatch) -> None:
    wanted = expected(LINEAR[text])
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    torch.manual_seed(5)
    check(step(text), wanted)


@pytest.mark.parametrize("text", LINEAR)
def test_an_input_is_kept_packed_and_the_gradients_are_the_same(text, monkeypatch) -> None:
    actual = step(text)
    monkeypatch.setattr(linear, "_packable", lambda *_: False)
    torch.manual_seed(5)
    check(actual, step(text))


@pytest.mark.parametrize("text", NEAREST)
def test_weights_are_kept_by_both_specs(text, monkeypatch) -> None:
    passes = []
    original = quantize.quantize_dequantize_along

    def counted(x, spec, *rest):
        passes.extend([] if spec.is_none else [spec])
        return original(x, spec, *rest)

    monkeypatch.setattr(reuse, "quantize_dequantize_along", counted)
    wanted = expected(LINEAR[text])
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "1")
    reuse.forget()
    x, w, dy = operands()
    for _ in range(2):
        y = quantized_linear(x, w, None, text)
        check([y.detach(), *torch.autograd.grad(y, (x, w), dy)], wanted)
    assert len(passes) == len({LINEAR[text][1], LINEAR[text][3]} - {"none", "<none"})
    reuse.forget()


@pytest.mark.parametrize("text", ["mxfp4:wgrad.format=mxfp8", "none:dgrad.format=mxfp4", "mxfp8:dgrad.bwd=dequantized"])
@pytest.mark.parametrize("frozen", ["x", "w"])
def test_only_the_gradients_asked_for_are_computed(text, frozen) -> None:
    wanted, (x, w, dy) = expected(LINEAR[text]), operands()
    (x if frozen == "x" else w).requires_grad_(False)
    leaf = w if frozen == "x" else x
    (gradient,) = torch.autograd.grad(quantized_linear(x, w, None, text), leaf, dy)
    check([gradient], [wanted[2 if frozen == "x" else 1]])


@pytest.mark.parametrize("text", ["mxfp4:gradient.round=stochastic", "mxfp8:wgrad.input.source=forward"])
def test_recomputation_gives_the_same(text) -> None:
    wanted, (x, w, dy) = step(text), operands()
    torch.manual_seed(5)
    y = checkpoint(lambda x: quantized_linear(x, w, None, text), x, use_reentrant=False)
    check([y.detach(), *torch.autograd.grad(y, (x, w), dy)], wanted)


def context(text: str, layer: Named | None = None) -> SimpleNamespace:
    ctx = SimpleNamespace(quant_site="linear", quant_type=text, needs_input_grad=(True, True), next_functions=(1, 1))
    ctx.quant_layer = layer
    ctx.save_for_backward = lambda *tensors: setattr(ctx, "saved_tensors", tensors)
    return ctx


def by_pieces(ctx: SimpleNamespace, save: int = 45) -> list[Tensor]:
    """As a patched layer calls the products; with sequence parallelism the input that is saved is a shard."""
    x, w, dy = (t.detach() for t in operands())
    y = linear.fprop(ctx, x, w, (x if save == 45 else x[:save], w))
    _, weight = linear.saved(ctx)
    dx = linear.dgrad(ctx, dy, weight)
    dy_in, x_in = linear.wgrad_operands(ctx, dy, x)
    return [y, dx, dy_in.t() @ x_in]


@pytest.mark.parametrize("text", LINEAR)
def test_a_gathered_input(text) -> None:
    wanted = expected(LINEAR[text])
    torch.manual_seed(5)
    check(by_pieces(context(text), save=15), wanted)


def test_a_layer_says_what_holds_for_it_once() -> None:
    """Whatever the selector says; the forward asks, and the backward keeps to its answer."""
    said, name = "mxfp4:wgrad.format=mxfp8", "decoder.layers.0.mlp.asks_once"
    literals = {"linear": said}
    ctx = context(f"mxfp8; layers 1: {said}", Named(name, literals))
    x, w, dy = (t.detach() for t in operands())
    y = linear.fprop(ctx, x, w, (x, w))
    literals["linear"] = "none"
    linear.saved(ctx)
    dx = linear.dgrad(ctx, dy, w)
    dy_in, x_in = linear.wgrad_operands(ctx, dy, x)
    check([y, dx, dy_in.t() @ x_in], expected(LINEAR[said]))
    assert hits.by_module()[name]["linear"]["calls"] == {said: {"fprop": 1, "dgrad": 1, "wgrad": 1}}


NONE_HERE = Named("decoder.layers.0.core", dict.fromkeys(("linear", "qk", "pv"), "none"))


def test_a_layer_of_which_nothing_is_quantized_is_a_stock_one() -> None:
    before, ctx = hits.snapshot(), context("mxfp8; layers 1: none", NONE_HERE)
    x, w, dy = (t.detach() for t in operands())
    actual = by_pieces(ctx)
    assert all(map(torch.equal, actual, (x @ w.t(), dy @ w, dy.t() @ x)))
    assert torch.equal(ctx.saved_tensors[0], x)
    a, b, scale = torch.randn(2, 9, 7), torch.randn(2, 7, 5), 0.17
    stock = torch.baddbmm(torch.empty(2, 9, 5), a, b, beta=0.0, alpha=scale)
    assert torch.equal(attention.qk(a, b, scale, "mxfp8; layers 1: none", NONE_HERE), stock)
    assert torch.equal(attention.pv(a, b, "mxfp8; layers 1: none", NONE_HERE), torch.bmm(a, b))
    assert hits.snapshot() == before


@pytest.mark.parametrize(("site", "text"), [*(("qk", text) for text in QK), *(("pv", text) for text in PV)])
def test_attention(site, text) -> None:
    """A [n, rows, reduced] by B [n, reduced, columns]; dA reduces columns, dB rows."""
    generator = torch.Generator().manual_seed(1)
    a, b, dc = (torch.randn(3, *size, generator=generator) for size in ((37, 40), (40, 41), (37, 41)))
    scale = 0.5 if site == "qk" else None  # a power of two, so that it does not matter where it multiplies
    of = Emulation({"qk": QK, "pv": PV}[site][text], (2, 1, 2, 2, 1, 1), a, b)
    (dc_a, b_in), (dc_b, a_in) = of.backward(dc)
    factor = scale or 1.0
    wanted = [
        torch.bmm(*of.fprop) * factor,
        torch.bmm(dc_a, b_in.transpose(1, 2)) * factor,
        torch.bmm(a_in.transpose(1, 2), dc_b) * factor,
    ]
    torch.manual_seed(5)
    a.requires_grad_(), b.requires_grad_()
    result = attention.qk(a, b, scale, text) if site == "qk" else attention.pv(a, b, text)
    check([result.detach(), *torch.autograd.grad(result, (a, b), dc)], wanted)


def experts(text: str, layers=None) -> list[Tensor]:
    counts = (7, 0, 33)
    generator = torch.Generator().manual_seed(1)
    x, dy, *weights = (
        torch.randn(size, generator=generator).to(torch.bfloat16) for size in ((40, 64), (40, 48), *((48, 64),) * 3)
    )
    for tensor in (x, *weights):
        tensor.requires_grad_()
    if layers is None:
        parts = zip(x.split(counts), weights, strict=True)
        y = torch.cat([quantized_linear(part, weight, None, text) for part, weight in parts])
    else:
        y = grouped_linear(x, weights, counts, text, layers=layers or None)
    return [y.detach(), *torch.autograd.grad(y, (x, *weights), dy)]


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize("text", NEAREST)
def test_experts_equal_the_loop(text, kernels, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
    check(experts(text, ()), experts(text))


def test_experts_by_triton(monkeypatch) -> None:
    text = "mxfp8:gradient.elem=e5m2,wgrad.input.format=mxfp4"
    wanted = experts(text)
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    check(experts(text, ()), wanted)


def test_experts_say_what_holds_for_them() -> None:
    def named(*texts: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(quant_layer=Named(f"experts.{n}", {"linear": text})) for n, text in enumerate(texts)]

    text = "mxfp4:wgrad.format=mxfp8"
    check(experts("mxfp8; experts: none", named(text, text, text)), experts(text))
    assert grouped.one_spec(named(text, "none", text), "mxfp8") is None
    with pytest.raises(QuantctlError, match="the experts differ"):
        experts("mxfp8", named(text, "none", text))


def attention_operands() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = ((37, 1, 4, 40), (37, 1, 2, 40), (37, 1, 2, 24), (37, 1, 4, 24))
    q, k, v, d_out = (torch.randn(size, generator=generator) for size in sizes)
    return [x.requires_grad_() for x in (q, k, v)], d_out


def fused(q: Tensor, k: Tensor, v: Tensor, qk: str, pv: str) -> Tensor:
    return fused_attention.fused_attention(q, k, v, scale=0.17, causal=True, qk=qk, pv=pv)


def unfused(q: Tensor, k: Tensor, v: Tensor, qk: str, pv: str) -> Tensor:
    s, b, heads, _ = q.shape
    by_head = [x.repeat_interleave(heads // x.shape[2], 2).reshape(s, b * heads, -1).transpose(0, 1) for x in (q, k, v)]
    scores = attention.qk(by_head[0], by_head[1].transpose(1, 2), 0.17, qk)
    probs = scores.masked_fill(torch.ones(s, s, dtype=torch.bool).triu(1), -10000.0).softmax(-1)
    return attention.pv(probs, by_head[2], pv).view(b, heads, s, -1).permute(2, 0, 1, 3)


FUSED = [
    ("mxfp8:fprop.key.format=mxfp4", "none", True),
    ("mxfp8:key.format=mxfp4", "none", False),
    ("mxfp8:query.format=none", "none", True),
    ("mxfp8:wgrad.bwd=high_precision", "none", False),
    ("mxfp4:dgrad.key.format=mxfp8,wgrad.query.format=mxfp8", "none", False),
    ("mxfp8:key.format=mxfp4", "mxfp8:probabilities.format=none,bwd=high_precision", False),
    ("none", "none:value.format=mxfp4", False),
]


@pytest.mark.parametrize(("qk", "pv", "library"), FUSED)
def test_fused_attention_is_the_same_function(qk, pv, library) -> None:
    """In fp32, where nothing that is quantized depends on the order of sums: P has no format here."""
    leaves, d_out = attention_operands()
    assert fused_attention.why_not(*leaves, qk=qk, pv=pv) is None
    assert fused_attention.by_library(qk=qk, pv=pv) is library
    results = []
    for flow in (fused, unfused):
        out = flow(*leaves, qk, pv)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, d_out)])
    for a, e in zip(*results, strict=True):
        assert (a - e).abs().max() <= 1e-5 * e.abs().max()


def test_fused_probabilities_and_values_in_formats_of_their_own() -> None:
    (q, k, v), d_out = attention_operands()

    def run(v: Tensor, pv: str) -> list[Tensor]:
        v = v.detach().requires_grad_()
        out = fused_pv.attention_pv(q, k, v, scale=0.17, causal=True, pv=pv)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), d_out)]

    check(
        run(v, "mxfp8:fprop.value.format=mxfp4"),
        run(quantize_dequantize(v, "mxfp4", 0), "mxfp8:fprop.value.format=none"),
    )
    assert not torch.equal(run(v, "mxfp8")[0], run(v, "mxfp8:fprop.value.format=mxfp4")[0])


@pytest.mark.parametrize(
    ("qk", "pv", "reason"),
    [
        ("mxfp8:gradient.format=mxfp8", "none", "qk=mxfp8:gradient.format=mxfp8 quantizes the gradients of the scores"),
        ("none", "none:wgrad.gradient.format=mxfp4", "quantizes the gradients of the context"),
        ("none", "mxfp8:wgrad.probabilities.format=mxfp4", "quantizes probabilities along queries"),
    ],
)
def test_what_no_fused_kernel_does(qk, pv, reason) -> None:
    leaves, _ = attention_operands()
    assert reason in fused_attention.why_not(*leaves, qk=qk, pv=pv)
