"""Memory for results. What comes from the system comes in pages of 4 KiB, of which every first touch is a trap: several
times what quantizing the page takes.

glibc's allocator gives the end of its memory back as soon as a step's backward has freed it, and takes it anew in the
next: here it is told to keep it. What is too large for it to keep comes in pages of 2 MiB, which are hardly felt.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from quantctl.kernels.cpu.geometry import CACHE_LINE

_MAPPED = 32 << 20
"""Bytes from which on glibc's allocator always asks the system: M_MMAP_THRESHOLD at its largest."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = (1 << 31) - 1
"""Free bytes at the end of the memory that are not given back: the most that mallopt(3) takes."""
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""By which somebody has told the allocator already."""
_PAGE, _HUGE = 4 << 10, 2 << 20
"""Bytes."""
_MADV_HUGEPAGE = 14
"""madvise(2) of Linux: advice, which changes no value and is not followed where it cannot be."""


@lru_cache(maxsize=1)
def _advise() -> Any:
    """madvise, or None where the system is another."""
    advise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if advise is not None:
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise


@lru_cache(maxsize=1)  # once a process
def _keep_memory() -> None:
    told = any(os.environ.get(name) for name in _OWN)
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and not told else None
    if tell is not None:
        tell(_M_MMAP_THRESHOLD, _MAPPED)
        tell(_M_TRIM_THRESHOLD, _KEEP)


def room_like(x: Tensor, gaps: bool = False) -> Tensor:
    """torch.empty_like(x).

    gaps: if x is a matrix whose rows begin at one place of memory's pages, those of the result lie a line of the cache
    further apart. A product that reads columns finds all rows of such a matrix in the same few lines of the first
    cache: 1024 wide, fp32, that is a fifth of its time.
    """
    _keep_memory()
    size = x.element_size()
    if gaps and x.dim() == 2 and x.is_contiguous() and x.shape[1] * size % _PAGE == 0:
        result = torch.empty_strided(x.shape, (x.shape[1] + CACHE_LINE // size, 1), dtype=x.dtype)
    else:
        result = torch.empty_like(x)
    if result.nbytes >= _MAPPED and (advise := _advise()) is not None:
        start = -(-result.data_ptr() // _HUGE) * _HUGE
        stop = (result.data_ptr() + result.nbytes) // _HUGE * _HUGE
        advise(start, stop - start, _MADV_HUGEPAGE)
    return result
