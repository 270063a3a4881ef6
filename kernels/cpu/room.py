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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantctl.kernels.cpu.geometry import CACHE_LINE

MAPPED = 32 << 20
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
        tell(_M_MMAP_THRESHOLD, MAPPED)
        tell(_M_TRIM_THRESHOLD, _KEEP)


class Room(NamedTuple):
    """What results of one layout are made of."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    is_mapped: bool
    """Whether it is too large for the allocator to keep."""

    def viewed(self, sizes: tuple[int, ...]) -> Room:
        """That of the same memory in other dimensions."""
        here = torch.empty_strided(self.sizes, self.strides, dtype=self.dtype, device="meta")
        return self._replace(sizes=tuple(sizes), strides=here.view(sizes).stride())

    def make(self) -> Tensor:
        result = torch.empty_strided(self.sizes, self.strides, dtype=self.dtype, device="cpu")
        if self.is_mapped and (advise := _advise()) is not None:
            start = -(-result.data_ptr() // _HUGE) * _HUGE
            stop = (result.data_ptr() + result.nbytes) // _HUGE * _HUGE
            advise(start, stop - start, _MADV_HUGEPAGE)
        return result


@lru_cache(maxsize=1024)
def room_of(dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...], gaps: bool) -> Room:
    """For results like a tensor of these sizes and strides, as torch.empty_like would make them.

    gaps: if it is a matrix whose rows begin at one place of memory's pages, those of the result lie a line of the cache
    further apart. A product that reads columns finds all rows of such a matrix in the same few lines of the first
    cache: 1024 wide, fp32, that is a fifth of its time.
    """
    _keep_memory()
    like = torch.empty_like(torch.empty_strided(sizes, strides, dtype=dtype, device="meta"))
    apart = like.stride()
    if gaps and len(sizes) == 2 and strides == (sizes[1], 1) and sizes[1] * dtype.itemsize % _PAGE == 0:
        apart = (sizes[1] + CACHE_LINE // dtype.itemsize, 1)
    return Room(tuple(sizes), apart, dtype, like.nbytes >= MAPPED)


def room_like(x: Tensor) -> Tensor:
    """torch.empty_like(x)."""
    return room_of(x.dtype, x.shape, x.stride(), False).make()
