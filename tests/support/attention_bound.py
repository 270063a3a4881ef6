"""Attention and its gradients in float64, and how far a computation in a smaller dtype may be from it.

P = softmax(scale * Qs Ks^T) over the causal keys, O = P V, dP = dO V^T, dS = P * (dP - R) with R = rowsum(P * dP),
dQ = scale * dS K, dK = scale * dS^T Q, dV = P^T dO. Every sum is in fp32 (u = 2^-24); what stands between two products
may be stored in the operands' dtype (w, its unit roundoff), as the unfused flow does with each of them. First-order and
element by element, with d and d_v the widths, n keys, r heads a group, M = max scale * |Qs| |Ks|^T, A = |dO| |V|^T and
B = P * (A + rowsum(P * A)), these are off by at most

    a score    D = (d + 8) u M + w M
    P          e = exp(2 D) - 1 + (2 n + 16) u + 2 w as a factor: the score and the row's maximum, exp and its sum, and
               that P is stored (or exp(S - max) and O)
    O          (e + (n + 2) u + w) P |V|
    dV         (e + (n + r + 2) u + (r + 1) w) P^T |dO|
    dS         (2 e + (d_v + n + 8) u + 4 w) B: dP, R and dS stored
    dQ         scale * (2 e + (d_v + 2 n + r + 10) u + (6 + r) w) B |K|: product, factor and sums over heads stored
    dK         the same with B^T |Q|

The bound is that times 1 + 2 e, for the products of errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


class Exact(NamedTuple):
    """[s, b, heads or groups, d] in float64, in the order O, dQ, dK, dV."""

    values: tuple[Tensor, ...]
    bounds: tuple[Tensor, ...]

    def excess(self, computed: tuple[Tensor, ...]) -> list[float]:
        """The largest error of each result in units of its bound: at most 1."""
        return [
            ((found.detach().double() - value).abs() / bound).max().item()
            for found, value, bound in zip(computed, *self, strict=True)
        ]


def exact(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, scale: float, scores_of: tuple[Tensor, Tensor] | None = None
) -> Exact:
    """q, d_out [s, b, heads, d], k, v [s, b, groups, d], all of one dtype; scores_of: Qs, Ks if others."""
    u, w = ROUNDOFF[torch.float32], ROUNDOFF[q.dtype]
    repeat, width, keys = q.shape[2] // k.shape[2], v.shape[3], k.shape[0]

    def by_head(x: Tensor) -> Tensor:
        x = x.detach().double().permute(1, 2, 0, 3)
        return x.repeat_interleave(q.shape[2] // x.shape[1], dim=1)

    def by_position(x: Tensor) -> Tensor:
        return x.permute(2, 0, 1, 3)

    def by_group(x: Tensor) -> Tensor:
        return by_position(x.unflatten(1, (-1, repeat)).sum(2))

    q_s, k_s = (by_head(x) for x in scores_of or (q, k))
    q, k, v, d_out = (by_head(x) for x in (q, k, v, d_out))
    future = torch.ones(keys, keys, dtype=torch.bool).triu(1)
    p = (scale * q_s @ k_s.mT).masked_fill(future, -math.inf).softmax(-1)
    d_p = d_out @ v.mT
    d_s = p * (d_p - (p * d_p).sum(-1, keepdim=True))
    values = (
        by_position(p @ v),
        by_position(scale * d_s @ k),
        by_group(scale * d_s.mT @ q),
        by_group(p.mT @ d_out),
    )

    largest = scale * (q_s.abs() @ k_s.abs().mT).max().item()
    drift = (q.shape[3] + 8) * u * largest + w * largest
    e = math.expm1(2 * drift) + (2 * keys + 16) * u + 2 * w
    a = d_out.abs() @ v.abs().mT
    d_s_abs = p * (a + (p * a).sum(-1, keepdim=True))
    d_s_abs *= scale * (2 * e + (width + 2 * keys + repeat + 10) * u + (6 + repeat) * w)
    bounds = (
        (e + (keys + 2) * u + w) * by_position(p @ v.abs()),
        by_position(d_s_abs @ k.abs()),
        by_group(d_s_abs.mT @ q.abs()),
        (e + (keys + repeat + 2) * u + (repeat + 1) * w) * by_group(p.mT @ d_out.abs()),
    )
    return Exact(values, tuple((1 + 2 * e) * bound for bound in bounds))
