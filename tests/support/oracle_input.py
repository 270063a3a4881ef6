"""A tensor made of integer arithmetic alone, so that its bits are the same on every machine, and digests of results.

Others' code was run on it once, and what it gave is kept as digests in tests: no code of others is needed to compare.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def made(m: int, n: int, seed: int = 0) -> Tensor:
    """bf16 [m, n]: both signs, ten binades, all mantissas."""
    h = torch.arange(m * n, dtype=torch.int64) + seed * 1000003
    for factor, shift in ((2654435761, 15), (2246822519, 13), (3266489917, 16)):
        h = h * factor & _WORD
        h = h ^ h >> shift
    bits = (h >> 31) << 15 | (118 + (h >> 20) % 10) << 7 | (h >> 4) & 0x7F
    return bits.to(torch.uint16).view(torch.bfloat16).view(m, n)


def digest(x: Tensor) -> str:
    """The first 16 hexadecimal digits of sha256 over the bytes; floats wider than a byte as fp32, -0 as 0."""
    if x.is_floating_point() and x.element_size() > 1:
        x = x.float() + 0.0
    return hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
