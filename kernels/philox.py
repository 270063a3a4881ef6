"""Philox4x32-10, a counter-based generator, in integer torch operations: the noise of stochastic rounding.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
An element's noise is a function of (seed, rank, call, index of the element) alone: no state on the device,
the same on every device, and a backward that keeps the call's Draw sees what its forward saw.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.utils._python_dispatch import _disable_current_modes

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_WORDS = 4
# int64 counters handled at a time: on a CPU what stays in its cache, elsewhere what makes the launches few
_CHUNK = {"cpu": 1 << 14}
_LARGE_CHUNK = 1 << 22


@dataclass(frozen=True)
class Draw:
    """What one stochastic quantization draws from: equal draws give equal noise."""

    seed: int
    """64-bit key: the run's seed."""
    call: int
    """Which quantization of this process (64 bits)."""
    rank: int = 0
    """Data-parallel replicas share a seed; the rank keeps their noise independent. Below 2^16."""
    signs: int | None = None
    """The call that random signs are drawn from, where that is not this one: both operands of a product have one."""

    def with_signs(self, call: int | None) -> Draw:
        return self if call is None else replace(self, signs=call)


# with sequence parallelism Megatron computes a whole model under a fork of the CUDA generators, and warns in every
# forward that the CPU's is drawn from
logging.getLogger("megatron.core.tensor_parallel.random").addFilter(
    lambda record: not record.getMessage().startswith("CPU RNG state changed")
)


def own_draw(call: int) -> Draw:
    """The draw of that number in this process."""
    return Draw(torch.initial_seed(), call, int(os.environ.get("RANK", "0")))


def words_of(draws: Sequence[Draw | None]) -> list[int]:
    """Seed (as int64), call, rank and the signs' call (-1: none) of each, as the nodes of a graph take them."""
    return [
        word
        for draw in filter(None, draws)
        for word in (
            draw.seed - (draw.seed >> 63 << 64),
            draw.call,
            draw.rank,
            -1 if draw.signs is None else draw.signs,
        )
    ]


def draws_of(words: Sequence[int], count: int) -> tuple[Draw | None, ...]:
    """`count` draws by their words; None each where there are none."""
    parts = (words[i : i + 4] for i in range(0, len(words), 4))
    found = (Draw(seed, call, rank, None if signs < 0 else signs) for seed, call, rank, signs in parts)
    return tuple(found) or (None,) * count


def next_draw() -> Draw:
    """The draw of the next stochastic quantization in this process.

    Its number is a random one of torch's CPU generator: whatever saves and restores that generator's state, as
    checkpoints of a training and the recomputation of activations do, continues or repeats the draws with it.
    """
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack() or _len_torch_dispatch_stack_pre_dispatch():
        return _outside_of_modes()
    return _next()


def _next() -> Draw:
    return own_draw(int(torch.empty(1, dtype=torch.int64, device="cpu").random_().item()))


@torch.compiler.disable
def _outside_of_modes() -> Draw:
    with _disable_current_modes():  # the number is read here, also for operands that are fake
        return _next()


def philox4x32(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Ten rounds over four int64 tensors that hold 32-bit words; four tensors of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the product may wrap around int64: its two words stay right (arithmetic modulo 2^64); what lies above a word
        # counts in no product
        p0, p1 = (c0 & _WORD).mul_(_MULTIPLIERS[0]), (c2 & _WORD).mul_(_MULTIPLIERS[1])
        c0, c1 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0), p1
        c2, c3 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1), p0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [word.bitwise_and_(_WORD) for word in (c0, c1, c2, c3)]


def _words(draw: Draw, counters: Tensor) -> Tensor:
    """Words of int64 counters [...], [..., 4]: word i % 4 of counter i // 4 is element i's."""
    counter = [
        counters & _WORD,
        (counters >> 32) | (draw.rank << 16),
        torch.full_like(counters, draw.call & _WORD),
        torch.full_like(counters, draw.call >> 32 & _WORD),
    ]
    return torch.stack(philox4x32(counter, (draw.seed & _WORD, draw.seed >> 32 & _WORD)), dim=-1)


FIRST_SIGN = 1 << 47
"""The counter of the first random sign; no tensor has so many elements that one of theirs is as high."""


def random_signs(count: int, draw: Draw, device: torch.device) -> Tensor:
    """fp32 [count] of 1 and -1, each as likely: the top bit of each word from FIRST_SIGN on."""
    call = draw.call if draw.signs is None else draw.signs
    counters = torch.arange(FIRST_SIGN, FIRST_SIGN - (-count // _WORDS), dtype=torch.int64, device=device)
    words = _words(replace(draw, call=call), counters).flatten()[:count]
    return 1.0 - 2.0 * (words >> 31).to(torch.float32)


def _uniform(words: Tensor) -> Tensor:
    return (words >> 8).to(torch.float32).mul_(2.0**-24)


def uniform(shape: torch.Size, draw: Draw, device: torch.device) -> Tensor:
    """fp32 multiples of 2^-24 in [0, 1), uniform; element i in row-major order of `shape` has index i."""
    counters = -(-shape.numel() // _WORDS)
    chunk = _CHUNK.get(device.type, _LARGE_CHUNK)
    noise = [
        _uniform(_words(draw, torch.arange(first, min(first + chunk, counters), dtype=torch.int64, device=device)))
        for first in range(0, counters, chunk)
    ]
    if not noise:
        return torch.empty(shape, dtype=torch.float32, device=device)
    return torch.cat(noise).flatten()[: shape.numel()].view(shape)


def uniform_at(index: Tensor, draw: Draw) -> Tensor:
    """What `uniform` gives to the elements with these int64 indices, of index's shape."""
    words = _words(draw, index // _WORDS)
    return _uniform(words.gather(-1, (index % _WORDS).unsqueeze(-1)).squeeze(-1))
