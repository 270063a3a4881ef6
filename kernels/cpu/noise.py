"""Philox4x32-10 (philox.py has the source): the noise of a run of elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantctl.kernels import philox
from quantctl.kernels.cpu.compiled import part

_WORD = np.uint64(0xFFFFFFFF)
_M0, _M1 = (np.uint64(word) for word in philox._MULTIPLIERS)
_W0, _W1 = (np.uint64(word) for word in philox._WEYL)


class Key(NamedTuple):
    """A draw in 32-bit words, and the number of the first element that is drawn for."""

    seed_low: Any
    seed_high: Any
    rank: Any
    call_low: Any
    call_high: Any
    number: Any


def key(draw: philox.Draw, number: int) -> Key:
    low, high = (np.uint64(draw.seed >> shift & 0xFFFFFFFF) for shift in (0, 32))
    call_low, call_high = (np.uint64(draw.call >> shift & 0xFFFFFFFF) for shift in (0, 32))
    return Key(low, high, np.uint64(draw.rank), call_low, call_high, np.int64(number))


NO_KEY = key(philox.Draw(0, 0), 0)


@part
def four(counter: Any, key: Any) -> Any:
    """The four words of a counter."""
    c0, c1 = counter & _WORD, (counter >> np.uint64(32)) | (key.rank << np.uint64(16))
    c2, c3 = key.call_low, key.call_high
    k0, k1 = key.seed_low, key.seed_high
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & _WORD
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@part
def fill(words: Any, first: Any, stride: Any, n: Any, key: Any) -> None:
    """24-bit noise of the elements first, first + stride, ... into words [n, rounded up to fours]."""
    first += key.number
    if stride == 1 and first % 4 == 0:
        for q in range((n + 3) // 4):
            a, b, c, d = four(np.uint64(first // 4 + q), key)
            words[4 * q] = np.int32(a >> np.uint64(8))
            words[4 * q + 1] = np.int32(b >> np.uint64(8))
            words[4 * q + 2] = np.int32(c >> np.uint64(8))
            words[4 * q + 3] = np.int32(d >> np.uint64(8))
    else:
        for j in range(n):
            index = first + j * stride
            a, b, c, d = four(np.uint64(index // 4), key)
            which = index % 4
            word = a if which == 0 else b if which == 1 else c if which == 2 else d
            words[j] = np.int32(word >> np.uint64(8))
