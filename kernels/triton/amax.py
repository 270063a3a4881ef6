"""The largest magnitudes of tensors and of rows on a GPU, behind the transform of their spec, for those formats whose
first element waits for the last one's size."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import Matrices
from quantctl.kernels.triton.bits import MAGNITUDE, load_bits
from quantctl.kernels.triton.blocks import counted
from quantctl.kernels.triton.constants import Quantizer
from quantctl.kernels.triton.hadamard import transformed
from quantctl.kernels.triton.launch import ROLES, Tile, raw, sign_words


@triton.jit
def add_amax(bits, amax_ptr, at, exists, AXIS: tl.constexpr, Q: tl.constexpr):
    """A tile's part in the largest magnitudes, into int32 that are 0 before. A maximum has no order: deterministic.

    at, exists: of the tensor's [1, 1], or of the rows along AXIS.
    """
    magnitude = counted(bits & MAGNITUDE, Q)
    largest = tl.max(magnitude, axis=AXIS, keep_dims=True)
    if Q.value.EXTENT == "tensor":
        largest = tl.max(largest, axis=1 - AXIS, keep_dims=True)
    tl.atomic_max(amax_ptr + at, largest, mask=exists, sem="relaxed")


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "signs_low_last", "signs_high_last", "signs_low_first",
                               "signs_high_first"])  # fmt: skip
def amax_kernel(x_ptr, last_ptr, first_ptr, m_size, n_size, x_batch, x_m, x_n, seed_low, seed_high, rank,
                signs_low_last, signs_high_last, signs_low_first, signs_high_first, LAST: tl.constexpr,
                FIRST: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [batch, m_size, n_size] by strides -> the bits of the largest magnitudes, quantized along n (LAST), along m
    (FIRST), or both: of the tensor [], or [batch, m_size] and [batch, n_size]."""
    m_tiles, n_tiles = tl.cdiv(m_size, ROWS), tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0)
    batch = (tile // (m_tiles * n_tiles)).to(tl.int64)
    m = ((tile // n_tiles % m_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    n = ((tile % n_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    bits = load_bits(x_ptr + (batch * x_batch + m * x_m + n * x_n), (m < m_size) & (n < n_size), Q.value.BF16)
    if LAST:
        at, exists = row_of(batch, m, n, m_size, n_size, 1, Q)
        add_amax(transformed(bits, seed_low, seed_high, rank, signs_low_last, signs_high_last, 1, Q, ROWS, COLUMNS),
                 last_ptr, at, exists, 1, Q)  # fmt: skip
    if FIRST:
        at, exists = row_of(batch, m, n, m_size, n_size, 0, Q)
        add_amax(transformed(bits, seed_low, seed_high, rank, signs_low_first, signs_high_first, 0, Q, ROWS, COLUMNS),
                 first_ptr, at, exists, 0, Q)  # fmt: skip


@triton.jit
def row_of(batch, m, n, m_size, n_size, AXIS: tl.constexpr, Q: tl.constexpr):
    """Where a tile's rows m [ROWS, 1] or columns n [1, COLUMNS] have their largest magnitudes, and which exist."""
    if Q.value.EXTENT != "row":
        return tl.zeros((1, 1), tl.int32), tl.full((1, 1), 1, tl.int1)
    elif AXIS == 1:
        return batch * m_size + m, m < m_size
    else:
        return batch * n_size + n, n < n_size


def amaxes(
    x: Tensor, q: Quantizer, launch: Matrices, tile: Tile, roles: tuple[str, ...], draws: tuple[Draw | None, ...]
) -> dict[str, Tensor]:
    """By role, int32: the bits of the largest magnitude of the tensor, [], or of each row, [batch, m] or [batch, n]."""
    batch, m, n, _ = launch
    if q.EXTENT == "tensor" and not q.HADAMARD:
        roles, draws = roles[:1], draws[:1]  # both are one
    lengths = {"last": m.size, "first": n.size}
    sizes = [batch.size * lengths[role] if q.EXTENT == "row" else 1 for role in roles]
    found = torch.zeros(sum(sizes), dtype=torch.int32, device=x.device).split(sizes)
    by_role = dict(zip(roles, found, strict=True))
    amax_kernel[(tile.programs(launch),)](
        raw(x),
        *(by_role.get(role, found[0]) for role in ROLES),
        *(m.size, n.size, batch.x, m.x, n.x),
        **sign_words(roles, draws),
        LAST="last" in by_role,
        FIRST="first" in by_role,
        Q=q.parameter,
        **tile.constants(q),
    )
    return {role: by_role.get(role, found[0]) for role in ROLES}
