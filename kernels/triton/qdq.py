"""Quantize-dequantize on a GPU: one kernel for every format, scale rule, rounding, transform and direction.

Formulas: the reference's, whose results this equals in every bit. A program takes a tile of a matrix, for all blocks
that lie in it; blocks along the matrix's last axis, its first, or both: then the tile is read once. A Hadamard
transform is made of what was read. A scale of the tensor or of rows takes a pass before; of rows that fit into a tile
none. Tensors with more dimensions become batches of matrices by strides, without a copy where that is possible.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.tensor_scale import extent_of
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import Matrices, matrices
from quantctl.kernels.triton.amax import amaxes, row_of
from quantctl.kernels.triton.bits import load_bits, noise_of_elements, noise_of_fours, store_bits
from quantctl.kernels.triton.blocks import amax_of_extent
from quantctl.kernels.triton.constants import quantizer
from quantctl.kernels.triton.formats import quantize_dequantize_tile
from quantctl.kernels.triton.hadamard import transformed
from quantctl.kernels.triton.launch import ROLES, Tile, draw_words, raw
from quantctl.spec import NONE, FormatSpec


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "signs_low_last",
                               "signs_high_last", "call_low_first", "call_high_first", "signs_low_first",
                               "signs_high_first"])  # fmt: skip
def qdq_kernel(x_ptr, last_ptr, first_ptr, amax_last_ptr, amax_first_ptr, m_size, n_size,
               x_batch, x_m, x_n, out_batch, out_m, out_n, index_batch, index_m, index_n,
               seed_low, seed_high, rank, call_low_last, call_high_last, signs_low_last, signs_high_last,
               call_low_first, call_high_first, signs_low_first, signs_high_first, LAST: tl.constexpr,
               FIRST: tl.constexpr, Q: tl.constexpr, WHOLE: tl.constexpr, FOURS: tl.constexpr, ROWS: tl.constexpr,
               COLUMNS: tl.constexpr):  # fmt: skip
    """x [batch, m_size, n_size] by strides -> its values in blocks along n (LAST), along m (FIRST), or both.

    amax_*: as amax_kernel gives them; WHOLE: a tile holds whole rows, whose largest magnitudes are found here. Strides
    are in elements; index_* are those of the elements' numbers in stochastic rounding. FOURS: four neighbours along n
    share a Philox counter.
    """
    tl.static_assert(LAST or FIRST)
    m_tiles, n_tiles = tl.cdiv(m_size, ROWS), tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0)
    # int64 before the first product with a stride: tensors have more than 2^31 elements
    batch = (tile // (m_tiles * n_tiles)).to(tl.int64)
    m_start = (tile // n_tiles % m_tiles).to(tl.int64) * ROWS
    n_start = (tile % n_tiles).to(tl.int64) * COLUMNS
    m = (m_start + tl.arange(0, ROWS))[:, None]
    n = (n_start + tl.arange(0, COLUMNS))[None, :]
    mask = (m < m_size) & (n < n_size)
    bits = load_bits(x_ptr + (batch * x_batch + m * x_m + n * x_n), mask, Q.value.BF16)
    out = batch * out_batch + m * out_m + n * out_n
    number = batch * index_batch
    if LAST:
        at, exists = row_of(batch, m, n, m_size, n_size, 1, Q)
        values = tile_values(bits, amax_last_ptr, at, exists, number, m, n, n_start, index_m, index_n, seed_low,
                             seed_high, rank, call_low_last, call_high_last, signs_low_last, signs_high_last, 1, Q,
                             WHOLE, FOURS, ROWS, COLUMNS)  # fmt: skip
        store_bits(last_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)
    if FIRST:
        at, exists = row_of(batch, m, n, m_size, n_size, 0, Q)
        values = tile_values(bits, amax_first_ptr, at, exists, number, m, n, n_start, index_m, index_n, seed_low,
                             seed_high, rank, call_low_first, call_high_first, signs_low_first, signs_high_first, 0, Q,
                             WHOLE, FOURS, ROWS, COLUMNS)  # fmt: skip
        store_bits(first_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)


@triton.jit
def tile_values(bits, amax_ptr, at, exists, number, m, n, n_start, index_m, index_n, seed_low, seed_high, rank,
                call_low, call_high, signs_low, signs_high, AXIS: tl.constexpr, Q: tl.constexpr, WHOLE: tl.constexpr,
                FOURS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits of a tile -> those of its values in blocks along AXIS. number: that of the first of all elements."""
    bits = transformed(bits, seed_low, seed_high, rank, signs_low, signs_high, AXIS, Q, ROWS, COLUMNS)
    noise = 0.0
    if Q.value.ROUND == "stochastic":
        noise = tile_noise(number, m, n, n_start, index_m, index_n, seed_low, seed_high, rank, call_low, call_high,
                           FOURS, ROWS, COLUMNS)  # fmt: skip
    amax = amax_of_extent(bits, amax_ptr, at, exists, AXIS, Q, WHOLE)
    return quantize_dequantize_tile(bits, noise, amax, AXIS, Q, ROWS, COLUMNS)


@triton.jit
def tile_noise(base, m, n, n_start, index_m, index_n, seed_low, seed_high, rank, call_low, call_high,
               FOURS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    if FOURS:
        fours = n_start // 4 + tl.arange(0, COLUMNS // 4)[None, :]
        counter = (base + m * index_m) // 4 + fours
        return noise_of_fours(counter, seed_low, seed_high, call_low, call_high, rank, ROWS, COLUMNS)
    else:
        index = base + m * index_m + n * index_n
        return noise_of_elements(index, seed_low, seed_high, call_low, call_high, rank)


def _launch(x: Tensor, out: Tensor, spec: FormatSpec, axes: tuple[int, ...]) -> Matrices | None:
    """matrices for the axes; for squares, which lie in the last two, with the role of the one axis."""
    if block_of(spec, 1).across <= 1:
        return matrices(x.shape, x.stride(), out.stride(), axes)
    if len(axes) > 1:
        return None
    sizes, *strides = x.shape, x.stride(), out.stride()
    if x.dim() == 1:
        strides = [(x.shape[0] * stride[0], *stride) for stride in strides]
        sizes = torch.Size((1, *sizes))
    last = len(sizes) - 1
    found = matrices(sizes, *strides, (last - 1, last))
    return found and found._replace(roles=found.roles[axes[0] - x.dim() :][:1])


def quantize_dequantize(
    x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: for each axis, of one seed and rank, where the spec rounds stochastically or has random signs. Nothing here
    waits for the device.
    """
    outs = [torch.empty_like(x) for _ in axes]
    if not x.numel():
        return outs
    launch = _launch(x, outs[0], spec, axes)
    if launch is None and len(axes) == 2:  # axes with others before, between or behind them
        return [quantize_dequantize(x, spec, (axis,), (draw,))[0] for axis, draw in zip(axes, draws, strict=True)]
    if launch is None:
        results = quantize_dequantize(x.contiguous(), spec, axes, draws)
        return [out.copy_(result) for out, result in zip(outs, results, strict=True)]
    batch, m, n, roles = launch
    by_role, q = dict(zip(roles, outs, strict=True)), quantizer(spec, x.dtype)
    whole = Tile.whole(q, launch, roles[0]) if len(roles) == 1 else None
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        tile = whole or Tile.of(q, n.size, roles)
        waits = q.EXTENT != NONE and whole is None
        amax = amaxes(x, q, launch, tile, roles, draws) if waits else dict.fromkeys(ROLES, x)
        qdq_kernel[(tile.programs(launch),)](
            *(raw(t) for t in (x, by_role.get("last", x), by_role.get("first", x))),
            *(*(amax[role] for role in ROLES), m.size, n.size),
            *(batch.x, m.x, n.x, batch.out, m.out, n.out, batch.number, m.number, n.number),
            **draw_words(roles, draws),
            LAST="last" in by_role,
            FIRST="first" in by_role,
            Q=q,
            WHOLE=whole is not None,
            FOURS=n.number == 1 and m.number % 4 == 0 and batch.number % 4 == 0,
            **tile.constants(q),
        )
    return outs


def bytes_moved(x: Tensor, spec: FormatSpec, directions: int, *, whole: bool = False) -> int:
    """Bytes of device memory that quantize_dequantize along so many axes has to read and write.

    One read and a write a direction; what has a largest magnitude of the tensor or of rows reads everything once more,
    but for rows that a tile holds as a whole. Block scales are never stored.
    """
    waits = extent_of(spec) != NONE and not whole
    return (1 + waits + directions) * x.numel() * x.element_size()
