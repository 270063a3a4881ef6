"""Philox4x32-10 (philox.py has the source): the noise of a run of elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from quantctl.kernels import philox
from quantctl.kernels.cpu.compiled import implements, part

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
    """The four words of a counter, in the low 32 bits of 64: what lies above counts in no product."""
    c0, c1 = counter, (counter >> np.uint64(32)) | (key.rank << np.uint64(16))
    c2, c3 = key.call_low, key.call_high
    k0, k1 = key.seed_low, key.seed_high
    for _ in range(10):
        p0, p1 = (c0 & _WORD) * _M0, (c2 & _WORD) * _M1
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ k1, p0
        k0, k1 = k0 + _W0, k1 + _W1
    return c0, c1, c2, c3


@part
def _top(word: Any) -> Any:
    """24 bits of a 32-bit word."""
    return np.int32((word & _WORD) >> np.uint64(8))


@part
def word_of(number: Any, key: Any) -> Any:
    """24-bit noise of an element."""
    index = number + key.number
    a, b, c, d = four(np.uint64(index // 4), key)
    which = index % 4
    return _top(a if which == 0 else b if which == 1 else c if which == 2 else d)


def fill(words: Any, first: Any, stride: Any, n: Any, key: Any) -> None:
    """24-bit noise of the elements first, first + stride, ... into words [n, rounded up to fours]; none without a
    key."""


@implements(fill, key=types.none)
def _leave(words: Any, first: Any, stride: Any, n: Any, key: Any) -> None:
    pass


@implements(fill, key=Key)
def _fill(words: Any, first: Any, stride: Any, n: Any, key: Any) -> None:
    if stride == 1 and (first + key.number) % 4 == 0:
        counter = np.uint64((first + key.number) // 4)
        for q in range(np.uint64((n + 3) // 4)):
            a, b, c, d = four(counter + q, key)
            words[np.uint64(4) * q] = _top(a)
            words[np.uint64(4) * q + np.uint64(1)] = _top(b)
            words[np.uint64(4) * q + np.uint64(2)] = _top(c)
            words[np.uint64(4) * q + np.uint64(3)] = _top(d)
    else:
        for j in range(np.int64(n)):
            words[j] = word_of(first + j * stride, key)
