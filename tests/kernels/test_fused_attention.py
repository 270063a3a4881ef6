"""Fused attention against float64 and against the unfused flow: the same function within the bound of both."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.products import attention, attention_dispatch, causal_mask, fused_attention, fused_pv
from quantctl.spec import parse

exact = runpy.run_path(str(Path(__file__).parents[1] / "support" / "attention_bound.py"))["exact"]

# sequence, batch, heads, groups, width of queries and keys, width of values
SHAPES = {
    "grouped queries": (48, 2, 4, 2, 32, 32),
    "one group, tails": (37, 1, 3, 1, 40, 40),
    "wide keys": (37, 2, 2, 2, 40, 24),
    "wide values": (33, 1, 2, 2, 24, 40),
    "one position": (1, 2, 2, 1, 32, 32),
}
SPECS = ("none", "mxfp8", "mxfp4:scale=floor", "nvfp4", "hifp8:scale=tensor", "mxfp4:bwd=high_precision")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCALE = 0.17


def leaves(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """q, k, v as slices of one projection, as Megatron has them, and the gradient of the result."""
    s, b, heads, groups, d, d_v = shape
    generator = torch.Generator().manual_seed(3)
    sizes = ((heads, d), (groups, d), (groups, d_v))
    mixed = torch.randn(s, b, sum(n * width for n, width in sizes), generator=generator).to(dtype)
    parts = mixed.split([n * width for n, width in sizes], dim=-1)
    operands = [part.unflatten(-1, size).requires_grad_() for part, size in zip(parts, sizes, strict=True)]
    return operands, torch.randn(s, b, heads, d_v, generator=generator).to(dtype)


def fused(q: Tensor, k: Tensor, v: Tensor, qk: str, pv: str = "none") -> Tensor:
    return fused_attention.fused_attention(q, k, v, scale=SCALE, causal=True, qk=qk, pv=pv)


def unfused(q: Tensor, k: Tensor, v: Tensor, qk: str, pv: str = "none") -> Tensor:
    """Megatron's flow with the selectors' products."""
    s, b, heads, _ = q.shape
    by_head = [x.repeat_interleave(heads // x.shape[2], 2).reshape(s, b * heads, -1).transpose(0, 1) for x in (q, k, v)]
    scores = attention.qk(by_head[0], by_head[1].transpose(1, 2), SCALE, qk)
    probs = scores.masked_fill(torch.ones(s, s, dtype=torch.bool).triu(1), -10000.0).softmax(-1)
    return attention.pv(probs, by_head[2], pv).view(b, heads, s, -1).permute(2, 0, 1, 3)


def with_gradients(function, operands: list[Tensor], d_out: Tensor, *specs: str) -> tuple[Tensor, ...]:
    out = function(*operands, *specs)
    return out, *torch.autograd.grad(out, operands, d_out)


def expected(operands: list[Tensor], d_out: Tensor, text: str):
    q, k, v = operands
    spec = parse(text, "qk")
    scores_of = tuple(quantize_dequantize(x, spec, -1) for x in (q, k))
    return exact(*((q, k) if spec.bwd == "high_precision" else scores_of), v, d_out, SCALE, scores_of)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_both_flows_are_the_same_function(shape, spec, dtype) -> None:
    operands, d_out = leaves(shape, dtype)
    reference = expected(operands, d_out, spec)
    for flow in (fused, unfused):
        computed = with_gradients(flow, operands, d_out, spec)
        assert [x.dtype for x in computed] == [dtype] * 4
        assert max(reference.excess(computed)) <= 1, flow


@pytest.mark.parametrize("others", ["mxfp4:bwd=dequantized", "mxfp4:bwd=high_precision,scale=floor", "none"])
def test_another_function_is_out_of_bounds(others) -> None:
    """What the bound can tell apart: other gradient operands, another scale rule, no quantization."""
    operands, d_out = leaves(SHAPES["grouped queries"], torch.float32)
    reference = expected(operands, d_out, "mxfp4:bwd=high_precision")
    assert max(reference.excess(with_gradients(fused, operands, d_out, others))) > 10


@pytest.mark.parametrize("pv", ["mxfp8", "hifp8:bwd=high_precision"])
@pytest.mark.parametrize("qk", ["none", "mxfp8", "mxfp8:bwd=high_precision"])
def test_quantized_pv_gets_the_quantized_scores(qk, pv) -> None:
    """Both selectors together are fused_pv on the operands of QK, in every bit; the gradients pass to Q and K."""
    operands, d_out = leaves(SHAPES["grouped queries"], torch.bfloat16)
    computed = with_gradients(fused, operands, d_out, qk, pv)
    q, k, v = (x.detach().requires_grad_() for x in operands)
    spec = parse(qk, "qk")
    scores_of = tuple(quantize_dequantize(x, spec, -1) for x in (q, k))
    if spec.bwd != "high_precision":
        q, k = (x.detach().requires_grad_() for x in scores_of)
        scores_of = None
    out = fused_pv.attention_pv(q, k, v, scale=SCALE, causal=True, pv=pv, scores_of=scores_of)
    assert all(map(torch.equal, computed, (out, *torch.autograd.grad(out, (q, k, v), d_out))))


def test_stochastic_rounding_sees_the_same_draw_in_both_directions() -> None:
    operands, d_out = leaves(SHAPES["wide keys"], torch.float32)
    q, k, v = operands
    spec = parse("mxfp4:round=stochastic", "qk")
    first = torch.get_rng_state()
    computed = with_gradients(fused, operands, d_out, "mxfp4:round=stochastic")
    torch.set_rng_state(first)
    drawn = [quantize_dequantize(x, spec, -1) for x in (q, k)]
    assert max(exact(*drawn, v, d_out, SCALE).excess(computed)) <= 1


# copies of Q, K, V and O that are kept
KEPT = {
    "library": ("mxfp8", "none", (1, 1, 1, 1)),
    "unquantized gradient operands": ("mxfp8:bwd=high_precision", "none", (2, 2, 1, 1)),
    "quantized probabilities": ("mxfp8", "mxfp8", (1, 1, 1, 1)),
}


@pytest.mark.parametrize("length", [64, 256])
@pytest.mark.parametrize(("qk", "pv", "copies"), KEPT.values(), ids=KEPT)
def test_what_is_kept_for_the_backward(qk, pv, copies, length) -> None:
    """Tensors of the operands' sizes and at most two fp32 numbers a row of scores; none of what V is a part of."""
    storages = {}
    _, batch, heads, *widths = SHAPES["grouped queries"]
    (q, k, v), d_out = leaves((length, batch, heads, *widths), torch.bfloat16)

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    q, k = (x.clone() for x in (q, k))  # as rotary embeddings leave them
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = fused(q, k, v, qk, pv)
    assert out.requires_grad
    tensors = sum(n * x.numel() * 2 for n, x in zip(copies, (q, k, v, d_out), strict=True))
    assert 0 <= sum(storages.values()) - tensors <= 2 * 4 * length * batch * heads


NEEDED = {"all": (True, True, True), "not keys": (True, False, True), "keys alone": (False, True, False)}


@pytest.mark.parametrize("qk", ["mxfp8:round=away", "mxfp8:round=away,bwd=high_precision"])
@pytest.mark.parametrize("needed", NEEDED.values(), ids=NEEDED)
def test_products_are_counted_as_in_the_unfused_flow(needed, qk) -> None:
    def calls(flow) -> dict[str, int]:
        operands, _ = leaves(SHAPES["wide keys"], torch.float32)
        before = hits.snapshot().get("qk", {}).get(qk, {})
        flow(*(x.detach().requires_grad_(n) for x, n in zip(operands, needed, strict=True)), qk).sum().backward()
        return {product: n - before.get(product, 0) for product, n in hits.snapshot()["qk"][qk].items()}

    once = {"fprop": 1, "dgrad": int(needed[0]), "wgrad": int(needed[1])}
    for flow in (fused, unfused):
        assert {**dict.fromkeys(once, 0), **calls(flow)} == once


WITHOUT = {
    "gradients quantized": (
        {"qk": "mxfp8:bwd=quantized"},
        torch.bfloat16,
        "qk=mxfp8:bwd=quantized quantizes the gradients",
    ),
    "gradients of pv quantized": (
        {"pv": "mxfp8:bwd=quantized"},
        torch.bfloat16,
        "pv=mxfp8:bwd=quantized quantizes the gradients",
    ),
    "float64": ({}, torch.float64, "the operands are torch.float64"),
    "a kernel there is": ({"qk": "mxfp8", "pv": "hifp8"}, torch.bfloat16, None),
}


@pytest.mark.parametrize(("specs", "dtype", "reason"), WITHOUT.values(), ids=WITHOUT)
def test_reasons(specs, dtype, reason) -> None:
    operands, _ = leaves(SHAPES["grouped queries"], dtype)
    found = fused_attention.why_not(*operands, **{"qk": "none", "pv": "none"} | specs)
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


def _mask(length: int, *changed: tuple[int, int]) -> Tensor:
    mask = torch.ones(2, 1, length, length, dtype=torch.bool).triu(1)
    for row, column in changed:
        mask[1, 0, row, column] ^= True
    return mask


MASKS = {
    "causal": (_mask(8), True),
    "longer than what is compared at once": (_mask(1100), True),
    "a later key seen": (_mask(8, (3, 4)), False),
    "an earlier key hidden": (_mask(8, (3, 0)), False),
    "its last row": (_mask(1100, (1099, 0)), False),
    "one position": (_mask(1), True),
}


@pytest.mark.parametrize(("mask", "causal"), MASKS.values(), ids=MASKS)
def test_masks_are_read_to_the_last_bit(mask, causal) -> None:
    assert causal_mask.is_causal(mask) is causal
    assert causal_mask.is_causal(mask) is causal


def test_a_mask_written_to_is_read_again() -> None:
    mask = _mask(8)
    assert causal_mask.is_causal(mask)
    mask[0, 0, 5, 1] = True
    assert not causal_mask.is_causal(mask)


def test_a_mask_that_counts_no_writes_is_read_every_time() -> None:
    with torch.inference_mode():
        mask = _mask(8)
        assert causal_mask.is_causal(mask)
        mask[0, 0, 5, 1] = True
        assert not causal_mask.is_causal(mask)


def test_later_masks_on_a_device_are_asserted_there(monkeypatch) -> None:
    """A CPU carries the assertion out at once."""
    monkeypatch.setattr(causal_mask, "_must_not_wait", lambda mask: True)
    assert causal_mask.is_causal(_mask(8))
    with pytest.raises(RuntimeError, match="run with --attention unfused"):
        causal_mask.is_causal(_mask(8, (3, 0)))
    monkeypatch.setitem(causal_mask._first, torch.device("cpu"), False)
    assert not causal_mask.is_causal(_mask(8))


@pytest.mark.parametrize(("capturing", "rehearsed"), [(False, True), (True, False)])
def test_masks_of_zeros_are_not_judged_when_megatron_rehearses_a_graph(monkeypatch, capturing, rehearsed) -> None:
    graphs = types.SimpleNamespace(is_graph_capturing=lambda: True)
    monkeypatch.setitem(sys.modules, "megatron.core.transformer.cuda_graphs", graphs)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert causal_mask._is_rehearsed() is rehearsed


def test_an_unknown_way_stops_the_run() -> None:
    operands, _ = leaves(SHAPES["grouped queries"], torch.bfloat16)
    with pytest.raises(QuantctlError, match="attention: 'flash' is unknown"):
        attention_dispatch.fused_context(
            None, *operands, None, attention_bias=None, packed_seq_params=None, impl="flash", qk="none", pv="none"
        )
