"""Memory for results. What is too large for the allocator to keep comes from the system at each call, in pages of 4 KiB
of which every first touch is a trap: several times what quantizing the page takes. Of 2 MiB they are hardly felt."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_MAPPED = 32 << 20
"""Bytes from which on glibc's allocator always asks the system: M_MMAP_THRESHOLD at its largest."""
_HUGE = 2 << 20
_MADV_HUGEPAGE = 14
"""madvise(2) of Linux: advice, which changes no value and is not followed where it cannot be."""


@lru_cache(maxsize=1)
def _advise() -> Any:
    """madvise, or None where the system is another."""
    advise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if advise is not None:
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise


def room_like(x: Tensor) -> Tensor:
    """torch.empty_like(x)."""
    result = torch.empty_like(x)
    if result.nbytes >= _MAPPED and (advise := _advise()) is not None:
        start = -(-result.data_ptr() // _HUGE) * _HUGE
        stop = (result.data_ptr() + result.nbytes) // _HUGE * _HUGE
        advise(start, stop - start, _MADV_HUGEPAGE)
    return result
