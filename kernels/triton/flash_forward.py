"""Fused attention, forward: the softmax's row maximum and sum, then O = Q(P) Q(V) with the normalized P.

A format sees P, not exp(S - max): its block scales depend on the row's sum, so the sum is known before the first block
is quantized. The two passes are two kernels; between them the amax of all P is the largest 1 / sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.flash_tiles import (
    amax_of_probabilities,
    draw_noise,
    load_head,
    load_rows,
    masked,
    multiply,
    probabilities,
    quantized,
    scores,
    store_rows,
)


@triton.jit
def _place(heads, tiles):
    """Tile, batch, head of this program: the tiles with the most keys first, neighbours share their keys."""
    program = tl.program_id(0)
    batch_heads = tl.num_programs(0) // tiles
    batch_head = program % batch_heads
    return tiles - 1 - program // batch_heads, batch_head // heads, batch_head % heads


@triton.jit
def last_tile(first_row, key_count, CAUSAL: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """First key of the last tile of keys that rows from first_row on may see, the only one that may need a mask.

    It comes after the loop over the others. That loop stands under `if last > 0`: if it could be empty, its sums would
    have a second definition at its end, and ptxas would wait for each of its products of matrices (C7515).
    """
    tl.static_assert(ROWS == KEYS or not CAUSAL)
    last = first_row if CAUSAL else (key_count - 1) // KEYS * KEYS
    return last


@triton.jit
def _softmax_tile(row_max, row_sum, q, q_rest, k_ptr, k_stride, first_key, first_row, key_count, factor,
                  CAUSAL: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
                  KEYS: tl.constexpr, MASKED: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    k, k_rest = load_head(k_ptr, first_key, k_stride, key_count, D, HEAD, REST, KEYS, not MASKED, BITS)
    x = scores(q, q_rest, k, k_rest, ROWS, KEYS, REST)
    if MASKED:
        x = masked(x, first_row, first_key, key_count, float("-inf"), CAUSAL, ROWS, KEYS)
    new_max = tl.maximum(row_max, tl.max(x, axis=1))
    row_sum = row_sum * tl.exp2((row_max - new_max) * factor)
    return new_max, row_sum + tl.sum(tl.exp2((x - new_max[:, None]) * factor), axis=1)


@triton.jit
def softmax_kernel(q_ptr, k_ptr, max_ptr, rcp_ptr, q_strides, k_strides, heads, group_size, row_count, key_count,
                   factor, CAUSAL: tl.constexpr, WHOLE_KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
                   REST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    """Of q k^T without a factor: the largest of each row, and 1 / sum of exp2((x - max) * factor); fp32, contiguous.

    Strides: batch, head, sequence, in elements. WHOLE_KEYS: key_count is a multiple of KEYS.
    """
    tile, batch, head = _place(heads, tl.cdiv(row_count, ROWS))
    first_row = tile * ROWS
    rows = first_row + tl.arange(0, ROWS)
    q_ptr += batch.to(tl.int64) * q_strides[0] + head.to(tl.int64) * q_strides[1]
    k_ptr += batch.to(tl.int64) * k_strides[0] + (head // group_size).to(tl.int64) * k_strides[1]
    q, q_rest = load_head(q_ptr, first_row, q_strides[2], row_count, D, HEAD, REST, ROWS, False, BITS)
    row_max = tl.full((ROWS,), float("-inf"), tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    last = last_tile(first_row, key_count, CAUSAL, ROWS, KEYS)
    if last > 0:
        for first_key in range(0, last, KEYS):
            row_max, row_sum = _softmax_tile(row_max, row_sum, q, q_rest, k_ptr, k_strides[2], first_key, first_row,
                                             key_count, factor, CAUSAL, D, HEAD, REST, ROWS, KEYS, False,
                                             BITS)  # fmt: skip
    row_max, row_sum = _softmax_tile(row_max, row_sum, q, q_rest, k_ptr, k_strides[2], last, first_row, key_count,
                                     factor, CAUSAL, D, HEAD, REST, ROWS, KEYS, CAUSAL or not WHOLE_KEYS,
                                     BITS)  # fmt: skip
    at = (batch * heads + head).to(tl.int64) * row_count + rows
    tl.store(max_ptr + at, row_max, mask=rows < row_count)
    # div_rn: the plain division is not IEEE's on a GPU, and P of a dominant key must not fall below 1
    tl.store(rcp_ptr + at, tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), row_sum), mask=rows < row_count)


@triton.jit
def _output_tile(sum, q, q_rest, row_max, row_rcp, k_ptr, k_stride, v_ptr, v_stride, first_key, first_row, index,
                 key_count, factor, amax, draw, CAUSAL: tl.constexpr, Q: tl.constexpr, FOURS: tl.constexpr,
                 D: tl.constexpr, HEAD: tl.constexpr,
                 REST: tl.constexpr, D_V: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
                 KEYS: tl.constexpr, MASKED: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    k, k_rest = load_head(k_ptr, first_key, k_stride, key_count, D, HEAD, REST, KEYS, not MASKED, BITS)
    v = load_rows(v_ptr, first_key, v_stride, key_count, 0, D_V, KEYS, COLUMNS, not MASKED, BITS)
    p = probabilities(scores(q, q_rest, k, k_rest, ROWS, KEYS, REST), row_max[:, None], row_rcp[:, None], factor)
    if MASKED:
        p = masked(p, first_row, first_key, key_count, 0.0, CAUSAL, ROWS, KEYS)
    noise = 0.0
    if Q.value.ROUND == "stochastic":
        noise = draw_noise(index, first_row, first_key, key_count, draw, ROWS, KEYS, FOURS)
    return multiply(quantized(p, noise, amax, Q, ROWS, KEYS, v.dtype, BITS), v, sum)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "call_low", "call_high", "rank"])
def output_kernel(q_ptr, k_ptr, v_ptr, max_ptr, rcp_ptr, out_ptr, amax_ptr, q_strides, k_strides, v_strides,
                  out_strides, heads, group_size, row_count, key_count, factor, seed_low, seed_high,
                  call_low, call_high, rank, CAUSAL: tl.constexpr, WHOLE_KEYS: tl.constexpr, Q: tl.constexpr,
                  FOURS: tl.constexpr, D: tl.constexpr,
                  HEAD: tl.constexpr, REST: tl.constexpr, D_V: tl.constexpr, COLUMNS: tl.constexpr,
                  ROWS: tl.constexpr, KEYS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    """O = Q(P) V with V given in its values; P from the scores and softmax_kernel's results."""
    tl.static_assert(KEYS % 32 == 0)
    tile, batch, head = _place(heads, tl.cdiv(row_count, ROWS))
    first_row = tile * ROWS
    rows = first_row + tl.arange(0, ROWS)
    group = (head // group_size).to(tl.int64)
    q_ptr += batch.to(tl.int64) * q_strides[0] + head.to(tl.int64) * q_strides[1]
    k_ptr += batch.to(tl.int64) * k_strides[0] + group * k_strides[1]
    v_ptr += batch.to(tl.int64) * v_strides[0] + group * v_strides[1]
    out_ptr += batch.to(tl.int64) * out_strides[0] + head.to(tl.int64) * out_strides[1]
    at = (batch * heads + head).to(tl.int64) * row_count
    row_max = tl.load(max_ptr + at + rows, mask=rows < row_count, other=0.0)
    row_rcp = tl.load(rcp_ptr + at + rows, mask=rows < row_count, other=0.0)
    draw = (seed_low, seed_high, call_low, call_high, rank)
    q, q_rest = load_head(q_ptr, first_row, q_strides[2], row_count, D, HEAD, REST, ROWS, False, BITS)
    amax = amax_of_probabilities(amax_ptr, row_rcp, Q, q.dtype, BITS)
    sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    last = last_tile(first_row, key_count, CAUSAL, ROWS, KEYS)
    if last > 0:
        for first_key in range(0, last, KEYS):
            sum = _output_tile(sum, q, q_rest, row_max, row_rcp, k_ptr, k_strides[2], v_ptr, v_strides[2], first_key,
                               first_row, at * key_count, key_count, factor, amax, draw, CAUSAL, Q,
                               FOURS, D, HEAD, REST, D_V, COLUMNS, ROWS, KEYS, False, BITS)  # fmt: skip
    sum = _output_tile(sum, q, q_rest, row_max, row_rcp, k_ptr, k_strides[2], v_ptr, v_strides[2], last, first_row,
                       at * key_count, key_count, factor, amax, draw, CAUSAL, Q, FOURS, D, HEAD,
                       REST, D_V, COLUMNS, ROWS, KEYS, CAUSAL or not WHOLE_KEYS, BITS)  # fmt: skip
    store_rows(out_ptr, first_row, out_strides[2], row_count, 0, sum, D_V, ROWS, COLUMNS, BITS)
