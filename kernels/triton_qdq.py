"""Quantize-dequantize on a GPU: one kernel for every format, scale rule, rounding and direction.

Formulas: mx.py, nvfp4.py, hifp8.py, whose results this equals in every bit. A program takes a tile of a matrix, for
all blocks that lie in it; blocks along the matrix's last axis, its first, or both: then the tile is read once.
Tensors with more dimensions become batches of matrices by strides, without a copy where that is possible.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels import hifp8, mx, nvfp4
from quantctl.kernels.format import Format
from quantctl.kernels.philox import Draw
from quantctl.kernels.triton_bits import (
    EXPONENT,
    MAGNITUDE,
    NAN,
    SIGN,
    bits_of,
    float_of,
    load_bits,
    noise_of_elements,
    noise_of_fours,
    round_to_element,
    round_to_step,
    store_bits,
)
from quantctl.spec import FormatSpec

E4M3_LARGEST = tl.constexpr(448.0)
HIF8_LARGEST = tl.constexpr(hifp8.LARGEST)
HIF8_OVERFLOW = tl.constexpr(hifp8.OVERFLOW)


@triton.jit
def _power_of_two(field):
    # the exponent field of 2^-127 would be 0: it is the subnormal 0x400000
    return float_of(tl.where(field > 0, field << 23, 0x400000))


@triton.jit
def _mx(a, amax, noise, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
        LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr):  # fmt: skip
    """Magnitudes a in blocks with the largest magnitudes' bits amax: mx.py, the scale as its E8M0 byte."""
    byte = tl.minimum(tl.maximum(((amax + RULE) >> 23) - MAX_EXPONENT, 0), 254)
    # 1 / scale has the byte 254 - byte: multiplying by it is exact where dividing by the scale is
    elements = round_to_element(a * _power_of_two(254 - byte), noise, MANTISSA_BITS, MIN_EXPONENT, LARGEST, ROUND)
    return elements * _power_of_two(byte)


@triton.jit
def _nvfp4(a, amax, encode, decode, noise, ROUND: tl.constexpr):
    """Magnitudes a in blocks with the largest magnitudes' bits amax: nvfp4.py, E2M1 under an E4M3 scale."""
    # div_rn: the plain division is not IEEE's on a GPU
    scale = round_to_element(tl.div_rn(float_of(amax), amax.to(tl.float32) * 0.0 + 6.0) * encode, 0.0, 3, -6,
                             E4M3_LARGEST, "nearest")  # fmt: skip
    product = tl.where(scale == 0.0, 1.0, scale * decode)
    inverse = tl.where(scale == 0.0, 0.0, tl.div_rn(product * 0.0 + 1.0, product))
    return round_to_element(a * inverse, noise, 1, 0, 6.0, ROUND) * scale * decode


@triton.jit
def _hifloat8(a, noise, ROUND: tl.constexpr):
    """Magnitudes a: hifp8.py. The step from the exponent: 3, 2, 1 mantissa bits up to 3, 7, 15; below, denormals."""
    bounded = tl.minimum(a, HIF8_OVERFLOW)
    exponent = (bits_of(bounded) >> 23) - 127
    size = tl.maximum(exponent, -exponent)
    normal = exponent - 3 + (size > 3).to(tl.int32) + (size > 7).to(tl.int32)
    step = tl.where(exponent < -15, tl.maximum(exponent, -22), normal)
    rounded = tl.minimum(round_to_step(bounded, float_of((step + 127) << 23), noise, ROUND), HIF8_LARGEST)
    return tl.where(a >= HIF8_OVERFLOW, float("inf"), rounded)


@triton.jit
def _quantize_dequantize(bits, noise, encode, decode, AXIS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
                         MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
                         LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, SCALED: tl.constexpr,
                         DTYPE_LARGEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """fp32 bits [ROWS, COLUMNS] -> fp32 bits of their values in the format, in blocks along AXIS."""
    tl.static_assert(FORMAT == "mx" or FORMAT == "nvfp4" or FORMAT == "hifp8")
    tl.static_assert(ROWS % BLOCK == 0 or AXIS == 1)
    tl.static_assert(COLUMNS % BLOCK == 0 or AXIS == 0)
    magnitude = bits & MAGNITUDE
    a = float_of(magnitude)
    if FORMAT == "hifp8":
        values = _hifloat8(a * encode if SCALED else a, noise, ROUND)
        # there is one zero
        sign = tl.where(values == 0.0, 0, bits & SIGN)
        if SCALED:
            values = tl.where(values < float("inf"), tl.minimum(values * decode, DTYPE_LARGEST), values)
        return tl.where(magnitude > EXPONENT, NAN, bits_of(values) | sign)
    else:
        if AXIS == 1:
            SHAPE: tl.constexpr = (ROWS, COLUMNS // BLOCK, BLOCK)
            INNER: tl.constexpr = 2
        else:
            SHAPE: tl.constexpr = (ROWS // BLOCK, BLOCK, COLUMNS)
            INNER: tl.constexpr = 1
        blocks = tl.reshape(a, SHAPE)
        # bits of magnitudes ascend as the magnitudes do, NaN above Inf above all others
        amax = tl.max(tl.reshape(magnitude, SHAPE), axis=INNER, keep_dims=True)
        if ROUND == "stochastic":
            noise = tl.reshape(noise, SHAPE)
        # blocks with NaN or Inf are computed as if they were zero: their result is not used
        finite = amax < EXPONENT
        bounded = tl.where(finite, amax, 0)
        blocks = tl.where(finite, blocks, 0.0)
        if FORMAT == "mx":
            values = _mx(blocks, bounded, noise, MANTISSA_BITS, MIN_EXPONENT, MAX_EXPONENT, LARGEST, RULE, ROUND)
        else:
            values = _nvfp4(blocks, bounded, encode, decode, noise, ROUND)
        result = tl.where(finite, bits_of(tl.minimum(values, DTYPE_LARGEST)), NAN)
        return tl.reshape(result, (ROWS, COLUMNS)) | (bits & SIGN)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first"])  # fmt: skip
def qdq_kernel(x_ptr, last_ptr, first_ptr, encode_ptr, decode_ptr, m_size, n_size,
               x_batch, x_m, x_n, out_batch, out_m, out_n, index_batch, index_m, index_n,
               seed_low, seed_high, rank, call_low_last, call_high_last, call_low_first, call_high_first,
               LAST: tl.constexpr, FIRST: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
               MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, MAX_EXPONENT: tl.constexpr,
               LARGEST: tl.constexpr, RULE: tl.constexpr, ROUND: tl.constexpr, SCALED: tl.constexpr,
               DTYPE_LARGEST: tl.constexpr, BF16: tl.constexpr, EXACT: tl.constexpr, FOURS: tl.constexpr,
               ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """x [batch, m_size, n_size] by strides -> its values in blocks along n (LAST), along m (FIRST), or both.

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
    if LAST:
        noise = 0.0
        if ROUND == "stochastic":
            noise = _tile_noise(batch * index_batch, m, m_start, n, n_start, index_m, index_n, seed_low, seed_high, rank,
                                call_low_last, call_high_last, FOURS, ROWS, COLUMNS)  # fmt: skip
        values = _quantize_dequantize(bits, noise, encode, decode, 1, FORMAT, BLOCK, MANTISSA_BITS, MIN_EXPONENT,
                                      MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, DTYPE_LARGEST, ROWS, COLUMNS)  # fmt: skip
        store_bits(last_ptr + out, values, mask, BF16, EXACT)
    if FIRST:
        noise = 0.0
        if ROUND == "stochastic":
            noise = _tile_noise(batch * index_batch, m, m_start, n, n_start, index_m, index_n, seed_low, seed_high, rank,
                                call_low_first, call_high_first, FOURS, ROWS, COLUMNS)  # fmt: skip
        values = _quantize_dequantize(bits, noise, encode, decode, 0, FORMAT, BLOCK, MANTISSA_BITS, MIN_EXPONENT,
                                      MAX_EXPONENT, LARGEST, RULE, ROUND, SCALED, DTYPE_LARGEST, ROWS, COLUMNS)  # fmt: skip
        store_bits(first_ptr + out, values, mask, BF16, EXACT)


@triton.jit
def _tile_noise(base, m, m_start, n, n_start, index_m, index_n, seed_low, seed_high, rank, call_low, call_high,
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
                COLUMNS: tl.constexpr):  # fmt: skip
    """The bits of the largest finite magnitude, into int32 that is 0 before. A maximum has no order: deterministic."""
    m_tiles, n_tiles = tl.cdiv(m_size, ROWS), tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0)
    batch = (tile // (m_tiles * n_tiles)).to(tl.int64)
    m = ((tile // n_tiles % m_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    n = ((tile % n_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (m < m_size) & (n < n_size)
    magnitude = load_bits(x_ptr + (batch * x_batch + m * x_m + n * x_n), mask, BF16) & MAGNITUDE
    finite = tl.where(magnitude < EXPONENT, magnitude, 0)
    tl.atomic_max(amax_ptr, tl.max(tl.max(finite, axis=1), axis=0))


class Dim(NamedTuple):
    """One dimension of the launch: its size, and the strides of x, of the result, and of the elements' numbers."""

    size: int
    x: int
    out: int
    index: int


ONE = Dim(1, 0, 0, 0)
TILE = (32, 128)
"""Rows and columns of a tile: whole blocks of either direction, 8 KiB of bf16."""


def _merged(dims: list[Dim]) -> list[Dim]:
    """The same elements in the same order with as few dimensions as the strides allow."""
    merged: list[Dim] = []
    for dim in (d for d in dims if d.size != 1):
        if merged and all(a == b * dim.size for a, b in zip(merged[-1][1:], dim[1:], strict=True)):
            dim = Dim(merged.pop().size * dim.size, *dim[1:])
        merged.append(dim)
    return merged


def _dims(x: Tensor, out: Tensor) -> list[Dim]:
    sizes = list(x.shape)
    index = [1] * len(sizes)
    for i in range(len(sizes) - 1, 0, -1):
        index[i - 1] = index[i] * sizes[i]
    return [Dim(*row) for row in zip(sizes, x.stride(), out.stride(), index, strict=True)]


def _matrices(x: Tensor, out: Tensor, axes: tuple[int, ...]) -> tuple[Dim, Dim, Dim, dict[int, str]] | None:
    """Batch, m and n of the launch, n with x's smallest stride, and whether each axis is FIRST (m) or LAST (n).

    None if the other dimensions cannot be merged into so few.
    """
    dims = _dims(x, out)
    edges = sorted(axes)
    between = [dims[a + 1 : b] for a, b in zip([-1, *edges], [*edges, len(dims)], strict=True)]
    others = [dim for group in between for dim in _merged(group)]
    if len(others) + len(axes) > 3:
        return None
    quantized = [dims[axis] for axis in axes]
    if len(axes) == 1:
        # the matrix's other dimension is the one with the smallest stride; the rest are batches
        others.sort(key=lambda dim: dim.x, reverse=True)
        partner = others.pop() if others else ONE
    else:
        partner = quantized[1]
    batch = others[0] if others else ONE
    if quantized[0].x <= partner.x or partner is ONE:
        return batch, partner, quantized[0], dict(zip(axes, ("LAST", "FIRST"), strict=False))
    return batch, quantized[0], partner, dict(zip(axes, ("FIRST", "LAST"), strict=False))


class Plan(NamedTuple):
    """What a spec makes of the kernel's parameters."""

    constants: dict[str, Any]
    scaled: bool


@lru_cache(maxsize=64)
def _plan(format_: Format, spec: FormatSpec) -> Plan:
    constants = dict(BLOCK=1, MANTISSA_BITS=1, MIN_EXPONENT=0, MAX_EXPONENT=0, LARGEST=1.0, RULE=0)  # noqa: C408
    round_, scaled = spec.round, False
    if isinstance(format_, mx.MX):
        assert spec.scale is not None
        element = format_.elements[spec.elem]
        constants = {
            "FORMAT": "mx",
            "BLOCK": mx.BLOCK,
            "MANTISSA_BITS": element.mantissa_bits,
            "MIN_EXPONENT": element.min_exponent,
            "MAX_EXPONENT": element.max_exponent,
            "LARGEST": element.largest,
            "RULE": mx.SCALE_RULES[spec.scale](element),
        }
    elif isinstance(format_, nvfp4.NVFP4):
        constants |= {"FORMAT": "nvfp4", "BLOCK": nvfp4.BLOCK}
        scaled = True
    else:
        constants |= {"FORMAT": "hifp8"}
        round_ = "away" if spec.round == "nearest" else spec.round
        scaled = spec.scale == "tensor"
    return Plan(constants | {"ROUND": round_, "SCALED": scaled}, scaled)


def _raw(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _signed(word: int) -> int:
    """A 32-bit word as the int32 with these bits, so that every draw has the kernel's one signature."""
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)


def _scales(x: Tensor, format_: Format, launch: tuple[Dim, Dim, Dim]) -> tuple[Tensor, Tensor]:
    """What elements are multiplied by before rounding and after, fp32 []."""
    batch, m, n = launch
    bits = torch.zeros((), dtype=torch.int32, device=x.device)
    amax_kernel[_grid(launch)](
        _raw(x), bits, m.size, n.size, batch.x, m.x, n.x, BF16=x.dtype == torch.bfloat16, ROWS=TILE[0], COLUMNS=TILE[1]
    )
    amax = bits.view(torch.float32)
    if isinstance(format_, nvfp4.NVFP4):
        return nvfp4.tensor_scales(amax)
    scale = hifp8.tensor_scale(amax)
    return scale.reciprocal(), scale


def _grid(launch: tuple[Dim, Dim, Dim]) -> tuple[int]:
    batch, m, n = launch
    return (batch.size * triton.cdiv(m.size, TILE[0]) * triton.cdiv(n.size, TILE[1]),)


def quantize_dequantize(
    x: Tensor, format_: Format, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """`x` through the format along each of one or two axes (>= 0), read once; the results have x's shape and dtype.

    draws: one for each axis where the spec rounds stochastically. Nothing here waits for the device.
    """
    outs = [torch.empty_like(x) for _ in axes]
    if not x.numel():
        return outs
    matrices = _matrices(x, outs[0], axes)
    if matrices is None:
        results = quantize_dequantize(x.contiguous(), format_, spec, axes, draws)
        return [out.copy_(result) for out, result in zip(outs, results, strict=True)]
    *launch, roles = matrices
    batch, m, n = launch
    plan = _plan(format_, spec)
    by_role = {role: (outs[i], draws[i]) for i, role in enumerate(roles.values())}
    words: dict[str, int] = dict.fromkeys(
        ("seed_low", "seed_high", "rank", *(f"call_{part}_{role}" for role in ("last", "first") for part in ("low", "high"))),
        0,
    )  # fmt: skip
    for role, (_, draw) in by_role.items():
        if draw is not None:
            words |= {"seed_low": _signed(draw.seed), "seed_high": _signed(draw.seed >> 32), "rank": draw.rank}
            words[f"call_low_{role.lower()}"] = _signed(draw.call)
            words[f"call_high_{role.lower()}"] = _signed(draw.call >> 32)
    with torch.device(x.device):
        encode, decode = _scales(x, format_, (batch, m, n)) if plan.scaled else (x, x)
        qdq_kernel[_grid((batch, m, n))](
            _raw(x),
            *(_raw(by_role[role][0]) if role in by_role else _raw(x) for role in ("LAST", "FIRST")),
            *(encode, decode, m.size, n.size),
            *(batch.x, m.x, n.x, batch.out, m.out, n.out, batch.index, m.index, n.index),
            **words,
            LAST="LAST" in by_role,
            FIRST="FIRST" in by_role,
            DTYPE_LARGEST=torch.finfo(x.dtype).max,
            BF16=x.dtype == torch.bfloat16,
            EXACT=plan.constants["FORMAT"] == "mx" or (plan.constants["FORMAT"] == "hifp8" and not plan.scaled),
            FOURS=n.index == 1 and m.index % 4 == 0 and batch.index % 4 == 0,
            ROWS=TILE[0],
            COLUMNS=TILE[1],
            **plan.constants,
            enable_fp_fusion=False,
        )
    return outs


def bytes_moved(x: Tensor, format_: Format, spec: FormatSpec, directions: int) -> int:
    """Bytes of device memory that quantize_dequantize along so many axes has to read and write.

    One read and a write a direction; a tensor scale reads everything once more. Scales themselves are not stored.
    """
    return (1 + _plan(format_, spec).scaled + directions) * x.numel() * x.element_size()
