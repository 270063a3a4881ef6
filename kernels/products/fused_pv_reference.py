"""Attention with quantized probabilities in torch, a chunk of query rows at a time: any device, memory O(sequence).

The twin of triton_flash.py; fused_pv.py has the formulas. A chunk has whole rows, so its softmax is the softmax. Keys
and values of a group meet the rows of all its query heads in one product and are never expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from quantctl.kernels import philox
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.quantize import FORMATS, quantize_dequantize_along
from quantctl.kernels.formats.rounding import finite_amax
from quantctl.kernels.products.flash_call import Call, Operands

ROWS = 128
"""Query rows a chunk: whole blocks."""


class _Chunk(NamedTuple):
    rows: slice
    keys: int
    """Keys that any of the rows may see: all before this one."""
    probs: Tensor
    """Normalized, fp32 [batch * groups, heads of a group * rows, keys]."""


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[batch, heads, rows, d] -> fp32 [batch * groups, heads of a group * rows, d]."""
    return x.unflatten(1, (groups, -1)).flatten(2, 3).flatten(0, 1).float()


def _chunks(q: Tensor, k: Tensor, call: Call) -> Iterator[_Chunk]:
    groups, length = k.shape[1], q.shape[2]
    key_matrix = _grouped(k, groups)
    for start in range(0, length, ROWS):
        rows = slice(start, min(start + ROWS, length))
        keys = rows.stop if call.causal else k.shape[2]
        scores = (_grouped(q[:, :, rows], groups) @ key_matrix[:, :keys].transpose(1, 2)).mul_(call.scale)
        if call.causal:
            row = torch.arange(rows.start, rows.stop, device=q.device).repeat(q.shape[1] // groups)
            scores.masked_fill_(torch.arange(keys, device=q.device) > row[:, None], -torch.inf)
        yield _Chunk(rows, keys, scores.softmax(-1))


def _noise(chunk: _Chunk, shape: tuple[int, int, int], draw: philox.Draw, device: torch.device) -> Tensor:
    """What philox.uniform gives to these elements of all probabilities [batch * heads, queries, keys]."""
    batch_heads, queries, keys = shape
    index = torch.arange(batch_heads, device=device)[:, None, None] * (queries * keys)
    index = index + torch.arange(chunk.rows.start, chunk.rows.stop, device=device)[:, None] * keys
    return philox.uniform_at(index + torch.arange(chunk.keys, device=device), draw)


def _quantized(chunk: _Chunk, q: Tensor, k: Tensor, call: Call, amax: Tensor | None) -> Tensor:
    """The chunk's probabilities as the product with the values takes them, fp32, of probs' shape."""
    probs = chunk.probs.to(q.dtype)
    if call.pv.is_none:
        return probs.float()
    by_head = probs.view(q.shape[0] * q.shape[1], -1, chunk.keys)
    noise = None
    if call.draw is not None:
        noise = _noise(chunk, (by_head.shape[0], q.shape[2], k.shape[2]), call.draw, q.device)
    if amax is not None:  # one more row that holds it, in no other's square: the chunk is scaled as all of P would be
        fill = -by_head.shape[1] % max(block_of(call.pv, 1).across, 1)
        by_head = torch.nn.functional.pad(by_head, (0, 0, 0, fill))
        by_head = torch.cat([by_head, amax.to(q.dtype).expand(by_head.shape[0], 1, chunk.keys)], dim=1)
        noise = None if noise is None else torch.nn.functional.pad(noise, (0, 0, 0, fill + 1))
    if noise is None:
        (quantized,) = quantize_dequantize_along(by_head, call.pv, (2,))
    else:
        quantized = FORMATS[call.pv.format].quantize_dequantize(by_head, call.pv, 2, noise)
    return quantized[:, : chunk.rows.stop - chunk.rows.start].reshape(probs.shape).float()


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[batch, heads, queries, d_v], and what `backward` wants besides the operands: P's amax if its format asks."""
    amax = None
    if call.is_scaled:
        amax = torch.stack([finite_amax(chunk.probs.to(q.dtype)) for chunk in _chunks(q, k, call)]).amax()
    out = call.empty(q, v.shape[3])
    values = _grouped(v, v.shape[1])
    for chunk in _chunks(q, k, call):
        context = _quantized(chunk, q, k, call, amax) @ values[:, : chunk.keys]
        out[:, :, chunk.rows] = context.view(*q.shape[:2], -1, v.shape[3]).to(q.dtype)
    return out, () if amax is None else (amax,)


def backward(grad: Tensor, operands: Operands, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV in the operands' shapes and dtype; call.pv is the format of P in dV."""
    q, k, groups = operands.q, operands.k, operands.k.shape[1]
    amax = operands.saved[0] if call.is_scaled else None
    keys, values = _grouped(k, groups), _grouped(operands.v, groups)
    d_q, d_k, d_v = call.empty(q, q.shape[3]), torch.zeros_like(keys), torch.zeros_like(values)
    for chunk in _chunks(operands.q_scores, operands.k_scores, call):
        d_o = _grouped(grad[:, :, chunk.rows], groups)
        d_p = d_o @ values[:, : chunk.keys].transpose(1, 2)
        d_s = d_p.sub_((chunk.probs * d_p).sum(-1, keepdim=True)).mul_(chunk.probs)
        d_s = d_s.to(q.dtype).float()
        rows = (d_s @ keys[:, : chunk.keys]).mul_(call.scale)
        d_q[:, :, chunk.rows] = rows.view(*q.shape[:2], -1, q.shape[3]).to(q.dtype)
        d_k[:, : chunk.keys] += (d_s.transpose(1, 2) @ _grouped(q[:, :, chunk.rows], groups)).mul_(call.scale)
        probs = _quantized(chunk, q, k, call, amax)
        d_v[:, : chunk.keys] += probs.transpose(1, 2) @ d_o
    return d_q, d_k.view(k.shape).to(q.dtype), d_v.view(operands.v.shape).to(q.dtype)
