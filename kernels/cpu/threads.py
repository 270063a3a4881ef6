"""Work in pieces on as many threads as torch would take; the kernels hold no lock of Python's."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

Result = TypeVar("Result")

SMALLEST_PIECE = 1 << 16
"""Elements for which handing a piece to another thread is worth its 20 microseconds."""

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    """A forked child has the pool, but none of its threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)


def in_pieces(work: Callable[[int, int], Result], units: int, elements: int) -> list[Result]:
    """work(start, stop) over 0 .. units, in this thread and others, as many as the elements are worth."""
    global _pool
    if units == 1 or elements < 2 * SMALLEST_PIECE:
        return [work(0, units)]
    threads = max(1, min(torch.get_num_threads(), units, elements // SMALLEST_PIECE))
    if threads == 1:
        return [work(0, units)]
    edges = [units * i // threads for i in range(threads + 1)]
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="quantctl")
    others = [_pool.submit(work, *piece) for piece in pairwise(edges[1:])]
    return [work(edges[0], edges[1]), *(other.result() for other in others)]
