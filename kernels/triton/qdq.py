"""Quantize-dequantize on a GPU: one kernel for every format, scale rule, rounding and direction.

Formulas: mx.py, nvfp4.py, hifp8.py, whose results this equals in every bit. A program takes a tile of a matrix, for
all blocks that lie in it; blocks along the matrix's last axis, its first, or both: then the tile is read once.
Tensors with more dimensions become batches of matrices by strides, without a copy where that is possible.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.formats import fp8, mx, nvfp4
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.tensor_scale import factors, needs_amax
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import Matrices, matrices
from quantctl.kernels.triton.bits import EXPONENT, MAGNITUDE, load_bits, noise_of_elements, noise_of_fours, store_bits
from quantctl.kernels.triton.constants import constants, options_of
from quantctl.kernels.triton.formats import quantize_dequantize_tile
from quantctl.spec import FormatSpec


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first"])  # fmt: skip
def qdq_kernel(x_ptr, last_ptr, first_ptr, encode_ptr, decode_ptr, m_size, n_size,
               x_batch, x_m, x_n, out_batch, out_m, out_n, index_batch, index_m, index_n,
               seed_low, seed_high, rank, call_low_last, call_high_last, call_low_first, call_high_first,
               LAST: tl.constexpr, FIRST: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
               MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
               LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, SCALED: tl.constexpr,
               DTYPE_LARGEST: tl.constexpr, BF16: tl.constexpr, EXACT: tl.constexpr, FOURS: tl.constexpr,
               SQUARE: tl.constexpr, POWERS: tl.constexpr, HEADROOM: tl.constexpr, BEHIND: tl.constexpr,
               ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [batch, m_size, n_size] by strides -> its values in blocks along n (LAST), along m (FIRST), or both.

    Squares count as LAST. Where the values are made of the tensor's largest magnitude, it lies behind decode.

    Strides are in elements; index_* are those of the elements' numbers in stochastic rounding. FOURS: four neighbours
    along n share a Philox counter.
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
    bits = load_bits(x_ptr + (batch * x_batch + m * x_m + n * x_n), mask, BF16)
    out = batch * out_batch + m * out_m + n * out_n
    encode, decode = 1.0, 1.0
    if SCALED:
        encode, decode = tl.load(encode_ptr), tl.load(decode_ptr)
    of_tensor = 0.0
    if FORMAT == "nvfp4_multiply":
        of_tensor = tl.load(decode_ptr + 1)
    if LAST:
        noise = 0.0
        if ROUND == "stochastic":
            noise = tile_noise(batch * index_batch, m, n, n_start, index_m, index_n, seed_low, seed_high, rank,
                               call_low_last, call_high_last, FOURS, ROWS, COLUMNS)  # fmt: skip
        values = quantize_dequantize_tile(bits, noise, encode, decode, 1, FORMAT, BLOCK, MANTISSA_BITS, MIN_EXPONENT,
                                          MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, DTYPE_LARGEST, ROWS,
                                          COLUMNS, of_tensor, SQUARE, POWERS, HEADROOM, BEHIND)  # fmt: skip
        store_bits(last_ptr + out, values, mask, BF16, EXACT)
    if FIRST:
        noise = 0.0
        if ROUND == "stochastic":
            noise = tile_noise(batch * index_batch, m, n, n_start, index_m, index_n, seed_low, seed_high, rank,
                               call_low_first, call_high_first, FOURS, ROWS, COLUMNS)  # fmt: skip
        values = quantize_dequantize_tile(bits, noise, encode, decode, 0, FORMAT, BLOCK, MANTISSA_BITS, MIN_EXPONENT,
                                          MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, DTYPE_LARGEST, ROWS,
                                          COLUMNS, of_tensor, SQUARE, POWERS, HEADROOM, BEHIND)  # fmt: skip
        store_bits(first_ptr + out, values, mask, BF16, EXACT)


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


@triton.jit
def amax_kernel(x_ptr, amax_ptr, m_size, n_size, x_batch, x_m, x_n, BF16: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr, FINITE: tl.constexpr = True):  # fmt: skip
    """The bits of the largest magnitude, of finite ones or of all, into int32 that is 0 before.

    A maximum has no order: deterministic.
    """
    m_tiles, n_tiles = tl.cdiv(m_size, ROWS), tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0)
    batch = (tile // (m_tiles * n_tiles)).to(tl.int64)
    m = ((tile // n_tiles % m_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    n = ((tile % n_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (m < m_size) & (n < n_size)
    magnitude = load_bits(x_ptr + (batch * x_batch + m * x_m + n * x_n), mask, BF16) & MAGNITUDE
    if FINITE:
        magnitude = tl.where(magnitude < EXPONENT, magnitude, 0)
    tl.atomic_max(amax_ptr, tl.max(tl.max(magnitude, axis=1), axis=0), sem="relaxed")


ROWS, COLUMNS = 32, 128
"""Size of a tile: whole blocks of either direction, 8 KiB of bf16."""


def raw(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def signed(word: int) -> int:
    """A 32-bit word as the int32 with these bits, so that every draw has the kernel's one signature."""
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)


def draw_words(roles: tuple[str, ...], draws: tuple[Draw | None, ...]) -> dict[str, int]:
    words = dict.fromkeys(("seed_low", "seed_high", "rank"), 0)
    words |= {f"call_{part}_{role}": 0 for role in ("last", "first") for part in ("low", "high")}
    for role, draw in zip(roles, draws, strict=True):
        if draw is not None:
            words |= {"seed_low": signed(draw.seed), "seed_high": signed(draw.seed >> 32), "rank": draw.rank}
            words |= {f"call_low_{role}": signed(draw.call), f"call_high_{role}": signed(draw.call >> 32)}
    return words


def _tiles(matrices: Matrices, rows: int = ROWS, block: int = mx.BLOCK) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and the size of a tile: narrower for a narrow matrix, but never less than a block."""
    batch, m, n, _ = matrices
    columns = max(min(COLUMNS, triton.next_power_of_2(n.size)), block)
    programs = batch.size * triton.cdiv(m.size, rows) * triton.cdiv(n.size, columns)
    return (programs,), {"ROWS": rows, "COLUMNS": columns}


def tensor_scales(x: Tensor, spec: FormatSpec, launch: Matrices) -> tuple[Tensor, Tensor]:
    """What elements are multiplied by before rounding and after, fp32 []."""
    batch, m, n, _ = launch
    bits = torch.zeros((), dtype=torch.int32, device=x.device)
    sizes = (m.size, n.size, batch.x, m.x, n.x)
    grid, tile = _tiles(launch)
    amax_kernel[grid](raw(x), bits, *sizes, BF16=x.dtype == torch.bfloat16, FINITE=spec.format != "fp8", **tile)
    amax = bits.view(torch.float32)
    if spec.format == "fp8":
        scale = fp8.scale_of(amax, spec, x.dtype)
        return scale, scale.reciprocal()
    if spec.scale == "multiply":
        encode, decode = nvfp4.multiplied_scales(amax)
        return encode, torch.stack((decode, amax))
    return factors(amax, spec)


def _launch(x: Tensor, out: Tensor, spec: FormatSpec, axes: tuple[int, ...]) -> Matrices | None:
    """matrices for the axes; squares, which lie in the last two, are one result whatever the axis."""
    if block_of(spec, 1).across <= 1:
        return matrices(x.shape, x.stride(), out.stride(), axes)
    if len(axes) > 1:
        return None
    sizes, *strides = x.shape, x.stride(), out.stride()
    if x.dim() == 1:
        strides = [(x.shape[0] * stride[0], *stride) for stride in strides]
        sizes = torch.Size((1, *sizes))
    found = matrices(sizes, *strides, (len(sizes) - 2, len(sizes) - 1))
    return found and found._replace(roles=("last",))


def quantize_dequantize(
    x: Tensor, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: for each axis, of one seed and rank, where the spec rounds stochastically. Nothing here waits for the device.
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
    by_role = dict(zip(roles, outs, strict=True))
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        encode, decode = tensor_scales(x, spec, launch) if needs_amax(spec) else (x, x)
        fixed, options = constants(spec, x.dtype), options_of(spec)
        down = options["SQUARE"] or "first" in by_role
        grid, tile = _tiles(launch, max(ROWS, fixed["BLOCK"] if down else 0), max(mx.BLOCK, fixed["BLOCK"]))
        qdq_kernel[grid](
            *(raw(t) for t in (x, by_role.get("last", x), by_role.get("first", x))),
            *(encode, decode, m.size, n.size),
            *(batch.x, m.x, n.x, batch.out, m.out, n.out, batch.number, m.number, n.number),
            **draw_words(roles, draws),
            LAST="last" in by_role,
            FIRST="first" in by_role,
            FOURS=n.number == 1 and m.number % 4 == 0 and batch.number % 4 == 0,
            **fixed,
            **options,
            **tile,
            enable_fp_fusion=False,
        )
    return outs


def bytes_moved(x: Tensor, spec: FormatSpec, directions: int) -> int:
    """Bytes of device memory that quantize_dequantize along so many axes has to read and write.

    One read and a write a direction; a tensor scale reads everything once more. Block scales are never stored.
    """
    return (1 + needs_amax(spec) + directions) * x.numel() * x.element_size()
