"""Launches the kernels of fused attention: triton_flash_forward.py and triton_flash_backward.py."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from quantctl.kernels.formats.rounding import finite_amax
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.flash_call import Call, Operands
from quantctl.kernels.triton.constants import NOTHING, quantizer
from quantctl.kernels.triton.flash_backward import keys_kernel, queries_kernel
from quantctl.kernels.triton.flash_forward import output_kernel, softmax_kernel
from quantctl.kernels.triton.launch import signed

WIDEST = (256, 256)
"""Columns of Q and K, and of V: a tile of 64 keys of wider heads does not fit into the registers and the shared memory
of one program. The kernels take up to 136 KiB (compute capability 8.0), which data centers' GPUs have."""
WIDEST_OF_SMALL = (192, 128)
"""Up to 88 KiB: for GPUs with 99 KiB (compute capability 8.6, 8.9, 12.0)."""
_LARGE = 140 * 1024


@lru_cache(maxsize=16)
def _shared_memory(device: int) -> int:
    """Bytes that a program on the GPU can have, by which Triton judges."""
    available: int = triton.runtime.driver.active.utils.get_device_properties(device)["max_shared_mem"]
    return available


def widest_heads(device: torch.device) -> tuple[int, int]:
    """The widest heads of Q and K, and of V, that the kernels compute on this device."""
    if device.type != "cuda":
        return WIDEST
    index = torch.cuda.current_device() if device.index is None else device.index
    return WIDEST if _shared_memory(index) >= _LARGE else WIDEST_OF_SMALL


LOG2_E = 1.4426950408889634


class Tile(NamedTuple):
    """Query rows and keys a step: multiples of 32, so that blocks of keys are whole."""

    rows: int
    keys: int
    warps: int
    stages: int


# 64 x 64 with 4 warps (3 stages forward) were the fastest of those tried with a first version of these kernels on an
# H200, heads of 128, sequences of 2048 and 8192; two programs share a multiprocessor. The others are chosen by what the
# compiler reports: a wider head has more sums than four warps have registers for, and fp32, which no tensor core
# multiplies, needs its operands in registers
NARROW_HEAD = 128
NARROW = {"forward": Tile(64, 64, 4, 3), "backward": Tile(64, 64, 4, 2)}
WIDE = {"forward": Tile(64, 64, 8, 2), "backward": Tile(64, 64, 8, 1)}
FP32 = Tile(32, 32, 8, 1)

LONGEST_STRIDE = 2**24
"""From one row of a tile to the next, in elements."""

PROGRAMS = 2048
"""keys_kernel divides the heads of a group among programs as long as there are fewer: an H200 runs some 260 at a time,
and under a causal mask they differ in length. Each part costs fp32 dK and dV of its own."""


def tile_for(dtype: torch.dtype, width: int, backward: bool) -> Tile:
    if dtype == torch.float32:
        return FP32
    return (NARROW if width <= NARROW_HEAD else WIDE)["backward" if backward else "forward"]


def _raw(x: Tensor) -> Tensor:
    """The interpreter gets bf16 as its bits, and so does everything that is not CUDA."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 and not x.is_cuda else x


def _readable(x: Tensor) -> Tensor:
    """x, or a copy of it: whole rows, and a tile's offsets fit into 31 bits."""
    return x if x.stride(-1) == 1 and x.stride(-2) <= LONGEST_STRIDE else x.contiguous()


def _device(x: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def widths(d: int, d_v: int) -> dict[str, int]:
    """The kernels' constants for heads of d and values of d_v columns; tiles have at least 16 of them."""
    head = max(1 << (d.bit_length() - 1), 16)
    rest = max(triton.next_power_of_2(d - head), 16) if d > head else 0
    return {"D": d, "HEAD": head, "REST": rest, "D_V": d_v, "COLUMNS": max(triton.next_power_of_2(d_v), 16)}


def _common(q: Tensor, v: Tensor, call: Call, tile: Tile) -> dict[str, Any]:
    return {
        "CAUSAL": call.causal,
        "WHOLE_KEYS": v.shape[2] % tile.keys == 0,
        "BITS": q.dtype == torch.bfloat16 and not q.is_cuda,
        **widths(q.shape[3], v.shape[3]),
        "ROWS": tile.rows,
        "KEYS": tile.keys,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": False,
    }


def _format(call: Call, dtype: torch.dtype, keys: int) -> dict[str, Any]:
    return {"Q": NOTHING if call.pv.is_none else quantizer(call.pv, dtype), "FOURS": keys % 4 == 0}


def _words(draw: Draw | None) -> tuple[int, ...]:
    if draw is None:
        return (0, 0, 0, 0, 0)
    words = (draw.seed, draw.seed >> 32, draw.call, draw.call >> 32)
    return (*(signed(word) for word in words), draw.rank)


def _amax(row_rcp: Tensor, call: Call, dtype: torch.dtype) -> Tensor:
    """The bits of the largest P, int32 [], where the format asks: a row's largest is 1 / sum."""
    return finite_amax(row_rcp.to(dtype)).view(torch.int32) if call.is_scaled else row_rcp


def _parts(batch: int, heads: int, groups: int, key_tiles: int) -> int:
    """Into how many programs a group's heads are divided: the smallest divisor of their number that gives PROGRAMS."""
    size = heads // groups
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return next((n for n in divisors if n * batch * groups * key_tiles >= PROGRAMS), size)


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[batch, heads, queries, d_v]; each row's maximum of q k^T and its 1 / sum, fp32 [batch, heads, queries]."""
    q, k, v = _readable(q), _readable(k), _readable(v)
    (batch, heads, rows, _), keys = q.shape, k.shape[2]
    tile = tile_for(q.dtype, max(q.shape[3], v.shape[3]), backward=False)
    common, factor = _common(q, v, call, tile), call.scale * LOG2_E
    out = call.empty(q, v.shape[3])
    row_max, row_rcp = q.new_empty(2, batch, heads, rows, dtype=torch.float32).unbind()
    grid = (triton.cdiv(rows, tile.rows) * batch * heads,)
    sizes = (heads, heads // k.shape[1], rows, keys, factor)
    with _device(q):
        shape = {name: value for name, value in common.items() if name not in ("D_V", "COLUMNS")}
        softmax_kernel[grid](_raw(q), _raw(k), row_max, row_rcp, q.stride()[:3], k.stride()[:3], *sizes, **shape)
        output_kernel[grid](
            *(_raw(q), _raw(k), _raw(v), row_max, row_rcp, _raw(out), _amax(row_rcp, call, q.dtype)),
            *(x.stride()[:3] for x in (q, k, v, out)),
            *(*sizes, *_words(call.draw)),
            **_format(call, q.dtype, keys),
            **common,
        )
    return out, (row_max, row_rcp)


def backward(grad: Tensor, operands: Operands, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV in the operands' shapes and dtype; call.pv is the format of P in dV."""
    grad = _readable(grad)
    q_scores, k_scores, q, k, v, out = (_readable(x) for x in operands[:6])
    row_max, row_rcp = operands.saved
    (batch, heads, rows, d), (_, groups, keys, d_v) = q.shape, v.shape
    tile = tile_for(q.dtype, max(d, d_v), backward=True)
    common, factor = _common(q, v, call, tile), call.scale * LOG2_E
    d_q, row_term = call.empty(q, d), torch.empty_like(row_max)
    key_tiles = triton.cdiv(keys, tile.keys)
    parts = _parts(batch, heads, groups, key_tiles)
    dtype = q.dtype if parts == 1 else torch.float32
    d_k, d_v_ = (
        q.new_empty(parts, keys, batch, groups, width, dtype=dtype).permute(0, 2, 3, 1, 4) for width in (d, d_v)
    )
    with _device(q):
        queries_kernel[(triton.cdiv(rows, tile.rows) * batch * heads,)](
            *(_raw(x) for x in (q_scores, k_scores, k, v, out, grad)),
            *(row_max, row_rcp, _raw(d_q), row_term),
            *(x.stride()[:3] for x in (q_scores, k_scores, k, v, out, grad, d_q)),
            *(heads, heads // groups, rows, keys, factor, call.scale),
            ONE_K=k is k_scores,
            **common,
        )
        keys_kernel[(key_tiles * batch * groups * parts,)](
            *(_raw(x) for x in (q_scores, q, k_scores, v, grad)),
            *(row_max, row_rcp, row_term, _raw(d_k), _raw(d_v_), _amax(row_rcp, call, q.dtype)),
            *(x.stride()[:3] for x in (q_scores, q, k_scores, v, grad)),
            *(d_k.stride()[:4], d_v_.stride()[:4], heads, groups, rows, keys, factor, call.scale, *_words(call.draw)),
            PARTS=parts,
            ONE_Q=q is q_scores,
            WHOLE_ROWS=rows % tile.rows == 0,
            OUT_BITS=parts == 1 and common["BITS"],
            **_format(call, q.dtype, keys),
            **common,
        )
    if parts == 1:
        return d_q, d_k[0], d_v_[0]
    return d_q, d_k.sum(0).to(q.dtype), d_v_.sum(0).to(q.dtype)
