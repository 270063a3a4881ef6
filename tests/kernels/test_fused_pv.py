"""Fused attention with quantized P and V against the unfused flow: every error within a bound derived from the data.

Both implementations: the torch reference and the Triton kernels, in the interpreter or on the GPU that
QUANTCTL_TEST_DEVICE=cuda names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.formats import codes
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.products import attention, fused_pv
from quantctl.spec import parse

DEVICE = os.environ.get("QUANTCTL_TEST_DEVICE", "cpu")
U = 2.0**-24
# numpy, in which the interpreter computes, reports the overflow of scores that the mask removes
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
by_implementation = pytest.mark.parametrize("implementation", ["reference", "triton"], indirect=True)


@pytest.fixture
def implementation(request, monkeypatch) -> str:
    monkeypatch.setenv("QUANTCTL_KERNELS", request.param)
    return request.param


@dataclass(frozen=True)
class Case:
    pv: str
    dtype: torch.dtype = torch.float32
    heads: int = 1
    groups: int = 1
    sq: int = 72
    sk: int = 72
    d: int = 32
    d_v: int = 32
    batch: int = 1
    causal: bool = True
    qk: str = "none"
    spread: float = 1.0
    """Standard deviation of the queries."""

    @property
    def scale(self) -> float:
        return self.d**-0.5

    def tensors(self, seed: int = 0) -> list[Tensor]:
        """q, k, v, dO: [s, b, heads, d]."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [(self.sq, self.heads, self.d), (self.sk, self.groups, self.d), (self.sk, self.groups, self.d_v),
                  (self.sq, self.heads, self.d_v)]  # fmt: skip
        q, *rest = (torch.randn(s, self.batch, h, d, generator=generator) for s, h, d in shapes)
        return [x.to(DEVICE, self.dtype) for x in (q * self.spread, *rest)]


bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
CASES = {
    "mxfp8, groups, two widths": Case("mxfp8", bf16, heads=4, groups=2, d=48, d_v=40, batch=2, sq=40, sk=40),
    "floor": Case("mxfp8:scale=floor", fp32, heads=2, sq=70, sk=70),
    "mxfp4, no mask": Case("mxfp4", fp16, sq=70, sk=97, causal=False),
    "whole tiles, no mask": Case("mxfp8:scale=ceil", fp32, sq=64, sk=128, causal=False),
    "whole tiles": Case("mxfp6:elem=e2m3,round=away", bf16, sq=128, sk=128),
    "high precision": Case("mxfp8:elem=e5m2,scale=even,bwd=high_precision", bf16),
    "hifp8": Case("hifp8", bf16),
    "hifp8, tensor scale": Case("hifp8:scale=tensor", fp32),
    "nvfp4": Case("nvfp4", fp32),
    "rows": Case("int8", fp32),
    "one scale": Case("fp8", fp32),
    "hifp8, fp32 scale": Case("hifp8:scale=fp32", fp32),
    "stochastic": Case("mxfp8:round=stochastic", fp32, heads=2, groups=2, sq=64, sk=64),
    "stochastic, odd": Case("mxfp4:round=stochastic,scale=floor", fp16, heads=1, sq=35, sk=67, causal=False),
    "none": Case("none", bf16, heads=2),
    "peaked": Case("mxfp8:scale=floor", fp32, spread=12.0),
    "qk in high precision": Case("mxfp8", bf16, qk="mxfp4:bwd=high_precision"),
}


def flat(x: Tensor, heads: int) -> Tensor:
    """[s, b, heads or groups, d] -> [b * heads, s, d], groups expanded."""
    s, b, groups, d = x.shape
    return x.repeat_interleave(heads // groups, 2).reshape(s, b * heads, d).transpose(0, 1)


def softmax(case: Case, scores: Tensor) -> Tensor:
    if case.causal:
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1)


def unfused(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """attention.py's two products in fp32; P is rounded to the dtype, as Megatron does, gradients pass through that."""
    q, k, v = (flat(x.float(), case.heads) for x in (q, k, v))
    p = softmax(case, attention.qk(q, k.transpose(1, 2), case.scale, case.qk))
    p = p + (p.to(case.dtype).float() - p).detach()
    context = attention.pv(p, v, case.pv)
    return context.transpose(0, 1).reshape(case.sq, case.batch, case.heads, case.d_v)


def fused(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores_of = None
    if case.qk != "none":
        spec = parse(case.qk, "qk")
        scores_of = (quantize_dequantize(q, spec), quantize_dequantize(k, spec))
    return fused_pv.attention_pv(q, k, v, scale=case.scale, causal=case.causal, pv=case.pv, scores_of=scores_of)


def run(function, case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """O, dQ, dK, dV."""
    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    torch.manual_seed(7)
    out = function(case, q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3].to(out.dtype))]


def perturbation(case: Case, magnitudes: Tensor) -> float:
    """delta: fused and unfused P differ by at most a factor 1 +- delta. magnitudes: scale * |Q| |K|^T of the scores.

    Each side, a = the largest magnitude: a score is wrong by (d + 2) u a (sums of d products in any order, the scale),
    so is the maximum; the exponent's subtraction, factor and its constant by 3 u |s - max| <= 6 u a; the exponential by
    4 u (exp2 on a GPU: 2 ulp). The sum has n positive terms, each wrong by that, and n u of its own; then a
    reciprocal, a product, a conversion: 3 u.
    """
    a = magnitudes.max().item()
    exponential = 2 * (case.d + 2) * a + 6 * a + 4
    return 2 * U * (2 * exponential + case.sk + 3)


def scaled(case: Case, p: Tensor, delta: float) -> list[Tensor]:
    """P (1 - delta), P, P (1 + delta) in the dtype. The only key of a causal mask's first row has 1 in both flows."""
    factor = torch.full_like(p, delta)
    if case.causal:
        factor[:, 0] = 0
    return [(p * (1 + sign * factor)).to(case.dtype) for sign in (-1, 0, 1)]


def moved(case: Case, p: Tensor, delta: float, text: str, draw) -> tuple[Tensor, Tensor, Tensor]:
    """Q(P (1 - delta)), Q(P), Q(P (1 + delta)) in the dtype: a rounding is monotone where the scale stays."""
    low, middle, high = scaled(case, p, delta)
    spec = parse(text, "pv")
    return tuple(quantize_dequantize(x, spec, 2, rng=draw).double() for x in (low, middle, high))


def uncertainty(case: Case, p: Tensor, delta: float, text: str, draw) -> Tensor:
    """The most by which fused and unfused Q(P) may differ.

    Between Q(P (1 - delta)) and Q(P (1 + delta)) where both have one block scale; nothing exceeds twice its block's
    largest value where they have not. NVFP4's values also move with the tensor's scale, by delta at most.
    """
    low, _, high = moved(case, p, delta, text, draw)
    width = high - low
    if not text.startswith("mx") and not text.startswith("nv"):
        return width
    nearest = text.replace("round=stochastic", "round=nearest")
    first, _, last = (codes.encode(x, nearest, 2).block_scales for x in scaled(case, p, delta))
    block = 16 if text.startswith("nv") else 32
    moves = (first != last).repeat_interleave(block, 2)[..., : p.shape[2]]
    padded = torch.nn.functional.pad(high, (0, -high.shape[2] % block)).unflatten(2, (-1, block))
    amax = padded.amax(-1).repeat_interleave(block, 2)[..., : p.shape[2]]
    return torch.where(moves, 2 * amax, width + (4 * delta * high if block == 16 else 0))


def exact(case: Case, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """In float64 from the definition: [O, dQ, dK, dV] with the bounds of their differences, first order in u and delta.

    The factor 1.1 stands for what is of second order: every coefficient is below 1/20.
    """
    q, k, v, d_o = (flat(x, case.heads).double() for x in tensors)
    qk_spec, pv_spec = parse(case.qk, "qk"), parse(case.pv, "pv")
    q_s, k_s = (quantize_dequantize(x.to(case.dtype), qk_spec).double() for x in (q, k))
    torch.manual_seed(7)
    p_draw, v_draw = (philox.next_draw() if pv_spec.round == "stochastic" else None for _ in "pv")
    values = quantize_dequantize(tensors[2].permute(1, 2, 0, 3), pv_spec, 2, rng=v_draw).permute(2, 0, 1, 3)
    v_f = flat(values, case.heads).double()
    straight = pv_spec.bwd != "high_precision"
    v_b, text_b = (v_f, case.pv) if straight else (v, "none")

    p = softmax(case, case.scale * q_s @ k_s.transpose(1, 2))
    delta = perturbation(case, case.scale * q_s.abs() @ k_s.abs().transpose(1, 2))
    p_f, p_b = (moved(case, p.float(), delta, text, p_draw)[1] for text in (case.pv, text_b))
    w_f, w_b = (uncertainty(case, p.float(), delta, text, p_draw) for text in (case.pv, text_b))
    # of the operands' dtype where something is rounded to it: relative, and fp16's subnormals
    t = 0.0 if case.dtype == fp32 else torch.finfo(case.dtype).eps / 2
    tiny = 2.0**-25 if case.dtype == fp16 else 0.0
    n, m = (2 * (length + 2) * U for length in (case.sk, case.sq * case.heads // case.groups))

    out = p_f @ v_f
    out_bound = w_f @ v_f.abs() + n * (p_f + w_f) @ v_f.abs() + t * out.abs()
    d_v = p_b.transpose(1, 2) @ d_o
    d_v_bound = w_b.transpose(1, 2) @ d_o.abs() + m * (p_b + w_b).transpose(1, 2) @ d_o.abs()

    d_p = d_o @ v_b.transpose(1, 2)
    d_p_bound = 2 * (case.d_v + 2) * U * d_o.abs() @ v_b.abs().transpose(1, 2)
    term = (p * d_p).sum(-1, keepdim=True)
    term_bound = (p * (d_p_bound + (2 * delta + n) * d_p.abs())).sum(-1, keepdim=True)
    d_s = p * (d_p - term)
    size = p * (d_p.abs() + term.abs())
    d_s_bound = p * (d_p_bound + term_bound) + (delta + 4 * U) * size
    rounding = t * (d_s.abs() + d_s_bound) + tiny
    d_k = case.scale * d_s.transpose(1, 2) @ q
    d_k_bound = case.scale * (d_s_bound + rounding + m * size).transpose(1, 2) @ q.abs()
    # one pass: centred with C = rowsum(dO * O), the operands are P (dP - C) and P
    centre = (d_o * out).sum(-1, keepdim=True)
    slack = (d_o.abs() * out_bound).sum(-1, keepdim=True)
    shift = (term - centre).abs() + slack
    centred = p * ((d_p - centre).abs() + slack)
    centred_bound = p * d_p_bound + (delta + 4 * U) * centred
    shift_bound = (centred_bound + n * centred).sum(-1, keepdim=True) + delta * (centre.abs() + slack)
    d_q = case.scale * d_s @ k
    per_key = d_s_bound + centred_bound + t * centred + tiny + n * (size + centred)
    per_key = per_key + (shift * (delta + t + n) + shift_bound) * p + shift * tiny
    d_q_bound = case.scale * per_key @ k.abs()

    def grouped(x: Tensor) -> Tensor:
        by_group = x.transpose(0, 1).unflatten(1, (case.batch, case.groups, -1))
        return by_group.sum(3)

    def by_position(x: Tensor) -> Tensor:
        return x.transpose(0, 1).unflatten(1, (case.batch, case.heads))

    results = [by_position(out), by_position(d_q), grouped(d_k), grouped(d_v)]
    bounds = [by_position(out_bound), by_position(d_q_bound), grouped(d_k_bound), grouped(d_v_bound)]
    rounded = [t * r.abs() + tiny for r in results]
    return results, [1.1 * (b + r) for b, r in zip(bounds, rounded, strict=True)]


def within(actual: list[Tensor], expected: list[Tensor], bounds: list[Tensor]) -> list[bool]:
    return [
        bool(((a.double() - e.double()).abs() <= b).all()) for a, e, b in zip(actual, expected, bounds, strict=True)
    ]


@by_implementation
@pytest.mark.parametrize("name", CASES)
def test_equals_the_unfused_flow_within_the_bound(name, implementation) -> None:
    case = CASES[name]
    tensors = case.tensors()
    _, bounds = exact(case, tensors)
    expected = run(unfused, case, [x.float() for x in tensors])
    actual = run(fused, case, tensors)
    assert [a.dtype for a in actual] == [case.dtype] * 4
    assert within(actual, expected, bounds) == [True] * 4


@pytest.mark.parametrize(
    "pv",
    [
        *("nvfp4:scale=multiply,block=16x16", "int8:block=32x32", "nvfp4:scale=4over6,extent=row"),
        "mxfp4:scale=floor,round=stochastic,headroom=3/4",
    ],
)
def test_kernels_and_reference_quantize_the_same_probabilities(pv, monkeypatch) -> None:
    """Two tiles of rows and of keys; in fp32 hardly a P lies so near a boundary that the order of sums decides."""
    found = []
    for kernels in ("reference", "triton"):
        monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
        torch.manual_seed(1)
        case = Case(pv, fp32, sq=45, sk=45)
        found.append(run(fused, case, case.tensors()))
    for actual, expected in zip(*found, strict=True):
        assert (actual - expected).norm() <= 0.01 * expected.norm()


@by_implementation
def test_the_bound_excludes_the_row_term_of_the_quantized_p(implementation) -> None:
    """rowsum(dO * O), which other kernels subtract, is rowsum(Q(P) * dP): the bound tells it from rowsum(P * dP)."""
    case = Case("mxfp4", fp32)
    tensors = case.tensors()
    expected, bounds = exact(case, tensors)
    out, d_q, d_k, d_v = run(fused, case, tensors)
    assert within([out, d_q, d_k, d_v], expected, bounds) == [True] * 4
    q, k, d_o = (flat(tensors[i], case.heads) for i in (0, 1, 3))
    p = softmax(case, case.scale * q @ k.transpose(1, 2))
    wrong = ((tensors[3] * out).sum(-1).permute(1, 2, 0).flatten(0, 1) - (d_o * 0).sum(-1))[..., None]
    v = quantize_dequantize(tensors[2], parse(case.pv, "pv"), 0)
    d_p = d_o @ flat(v, case.heads).transpose(1, 2)
    wrong_d_q = (case.scale * (p * (d_p - wrong)) @ k).transpose(0, 1).unflatten(1, (case.batch, case.heads))
    assert within([wrong_d_q], expected[1:2], bounds[1:2]) == [False]


@by_implementation
@pytest.mark.parametrize(
    ("text", "mantissa"), [("mxfp8", 3), ("mxfp8:scale=floor", 3), ("mxfp8:elem=e5m2", 2), ("mxfp4", 1), ("hifp8", 3)]
)
def test_codes_of_p_in_both_directions(text, mantissa, implementation) -> None:
    """V = 1 and dO = 1 show Q(P) itself, as O and as dV^T: each code is that of a P (1 +- delta).

    A code differs from the unfused one only where a boundary between codes lies within delta of P, relative. Of evenly
    spread P that is a fraction of at most 2 delta * 2^(m+1) with m mantissa bits; a block's scale changes for
    a fraction of 2 delta / ln 2 at most.
    """
    case = Case(text, fp32, sq=96, sk=96, d=16, d_v=96)
    tensors = case.tensors()
    eye = torch.eye(96, device=DEVICE).view(96, 1, 1, 96)
    tensors[2:] = [eye, eye]
    q, k = (flat(x, 1).double() for x in tensors[:2])
    p = softmax(case, case.scale * q @ k.transpose(1, 2)).float()
    delta = perturbation(case, case.scale * q.abs() @ k.abs().transpose(1, 2))
    low, middle, high = moved(case, p, delta, text, None)
    room = uncertainty(case, p, delta, text, None) > high - low
    out, _, _, d_v = run(fused, case, tensors)
    for actual in (out.permute(1, 2, 0, 3).flatten(0, 1), d_v.permute(1, 2, 3, 0).flatten(0, 1)):
        assert bool((((actual >= low) & (actual <= high)) | room).all())
        assert (actual != middle).double().mean().item() <= delta * (2 ** (mantissa + 2) + 3)


@by_implementation
def test_one_dominant_key_under_the_floor_rule(implementation) -> None:
    """P one ulp below 1 becomes 7/8: the largest P must be the rounded 1 / sum.

    The rest of each row is below exp(-100), so P is 1 and the result is V's quantized row exactly. exp2(S c - LSE), as
    flash attention has it in one fused multiply-add, misses 1 by what S c and LSE are rounded.
    """
    case = Case("mxfp8:scale=floor", fp32, sq=64, sk=64, d=64, causal=False)
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randperm(64, generator=generator)
    q = 400 * torch.eye(64)[chosen] * (1 + torch.rand(64, 1, generator=generator))
    k = 4 * torch.eye(64) + 0.01 * torch.randn(64, 64, generator=generator)
    q, k = (x.view(64, 1, 1, 64).to(DEVICE) for x in (q, k))
    v = torch.randn(64, 1, 1, 32, generator=generator).to(DEVICE)
    assert torch.equal(fused(case, q, k, v), quantize_dequantize(v, parse(case.pv, "pv"), 0)[chosen.to(DEVICE)])
    largest = (flat(q, 1) @ flat(k, 1).transpose(1, 2)).amax(-1, keepdim=True)
    factor = torch.tensor(case.scale * 1.4426950408889634, device=DEVICE)
    unsafe = (largest.double() * factor.double() - (largest * factor).double()).exp2().float()
    assert quantize_dequantize(unsafe, parse(case.pv, "pv"), 2).min().item() == 0.875


@by_implementation
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_group_divided_among_programs(parts, implementation, monkeypatch) -> None:
    if implementation == "triton":
        from quantctl.kernels.triton import flash as triton_flash

        monkeypatch.setattr(triton_flash, "PROGRAMS", parts)
        assert triton_flash._parts(1, 4, 1, 1) == parts
    case = Case("mxfp8", bf16, heads=4, sq=40, sk=40)
    tensors = case.tensors()
    assert within(run(fused, case, tensors), *exact(case, tensors)) == [True] * 4


@by_implementation
def test_views_give_what_copies_give(implementation) -> None:
    """Slices of one projection's result, as Megatron splits it, and an expanded gradient; and nothing is random."""
    case = Case("mxfp8", bf16, heads=2, sq=40, sk=40)
    q, k, v, d_o = case.tensors()
    together = torch.cat([x.flatten(2) for x in (q, k, v)], -1)
    parts = together.split([q[0, 0].numel(), k[0, 0].numel(), v[0, 0].numel()], -1)
    views = [part.unflatten(-1, x.shape[2:]) for part, x in zip(parts, (q, k, v), strict=True)]
    transposed = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]
    d_o = d_o[:1, :, :, :1].expand_as(d_o)
    for inputs in (views, transposed):
        leaves, copies = [x.detach().requires_grad_() for x in inputs], [x.clone().requires_grad_() for x in (q, k, v)]
        out, expected = fused(case, *leaves), fused(case, *copies)
        assert out.is_contiguous()
        assert torch.equal(out, expected)
        for a, e in zip(
            torch.autograd.grad(out, leaves, d_o),
            torch.autograd.grad(expected, copies, d_o.contiguous()),
            strict=True,
        ):
            assert torch.equal(a, e)


@by_implementation
@pytest.mark.parametrize("pv", ["mxfp8", "mxfp8:bwd=high_precision", "hifp8:scale=tensor"])
def test_what_is_kept_grows_with_the_sequence_and_not_with_its_square(pv, implementation) -> None:
    sizes = []
    for length in (64, 128):
        case = Case(pv, bf16, sq=length, sk=length)
        q, k, v, _ = (x.requires_grad_() for x in case.tensors())
        kept: dict[int, int] = {}

        def keep(x: Tensor, kept=kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            fused(case, q, k, v)
        sizes.append(sum(kept.values()))
        # q, k, v in their own or in quantized values, the result; two fp32 numbers a row
        assert sizes[-1] <= sum(x.numel() * 2 for x in (q, k, v, q)) + 2 * 4 * length + 4
    assert sizes[1] <= 2 * sizes[0]


@by_implementation
def test_products_are_counted_by_what_needs_them(implementation) -> None:
    case = Case("mxfp6", fp32, sq=32, sk=32)

    def calls() -> dict[str, int]:
        return {"fprop": 0, "dgrad": 0, "wgrad": 0} | hits.snapshot().get("pv", {}).get("mxfp6", {})

    for needed, expected in (((0,), (1, 1, 0)), ((2,), (1, 0, 1)), ((0, 1, 2), (1, 1, 1))):
        inputs = case.tensors()[:3]
        for i in needed:
            inputs[i].requires_grad_()
        before = calls()
        fused(case, *inputs).sum().backward()
        assert tuple(n - before[name] for name, n in calls().items()) == expected
        assert [x.grad is not None for x in inputs] == [i in needed for i in range(3)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pv": "mxfp8:bwd=quantized"}, "bwd=quantized"),
        ({"sk": 70}, "72 queries and 70 keys"),
        ({"heads": 3, "groups": 2}, "3 heads for 2 groups"),
        ({"dtype": torch.float64}, "float64"),
        ({"pv": "fp5"}, "fp5"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_it_does_not_compute_is_refused(change, named) -> None:
    case = Case(**({"pv": "mxfp8"} | change))
    with pytest.raises(QuantctlError, match=named) as refusal:
        fused(case, *case.tensors()[:3])
    if case.pv != "fp5":
        assert "unfused" in refusal.value.hint


def test_heads_too_wide_for_the_kernels_are_refused(monkeypatch) -> None:
    case = Case("mxfp8", sq=32, sk=32, d=264)
    inputs = case.tensors()[:3]
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
    assert fused(case, *inputs).shape == (32, 1, 1, 32)
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    assert "264" in fused_pv.why_not(*inputs, pv=case.pv)


def test_a_triton_whose_kernels_take_no_tuples_is_named(monkeypatch) -> None:
    case = Case("mxfp8", sq=32, sk=32)
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    assert fused_pv.why_not(*case.tensors()[:3], pv=case.pv) is None
    monkeypatch.setattr("triton.__version__", "3.3.1")
    assert "Triton 3.3.1" in fused_pv.why_not(*case.tensors()[:3], pv=case.pv)


def test_noise_at_an_index_is_that_of_the_whole_tensor() -> None:
    draw = philox.Draw(seed=5, call=3, rank=2)
    shape = torch.Size((3, 5, 7))
    index = torch.arange(shape.numel()).view(shape)
    assert torch.equal(philox.uniform_at(index, draw), philox.uniform(shape, draw, torch.device("cpu")))


def test_compiled_kernels() -> None:
    """Compiled without a GPU: on Hopper the products are its asynchronous ones and nothing makes them wait."""
    script = Path(__file__).with_name("compile_flash.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 6
    assert [row for row in rows if not row.endswith(": clean")] == []


@pytest.mark.parametrize(
    ("causal", "backward", "products"), [(False, False, 80 * 3), (True, False, 36 * 3), (False, True, 80 * 8)]
)
def test_flops_count_each_product_of_two_matrices(causal, backward, products) -> None:
    """Of equal widths: S, S and P V; S, dP, dS K, P K and S, dP, dV, dK. A causal mask leaves 8 * 9 / 2 of 64 pairs."""
    sk = 8 if causal else 10
    assert fused_pv.flops(2, 3, 8, sk, 16, 16, causal=causal, backward=backward) == 2 * 3 * products * 2 * 16
