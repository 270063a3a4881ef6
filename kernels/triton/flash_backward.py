"""Fused attention, backward: dQ with the softmax's row term, then dK and dV; straight-through, P unquantized in dS.

    dP = dO V^T,  D = rowsum(P * dP),  dS = P * (dP - D),  dQ = scale dS K,  dK = scale dS^T Q,  dV = Q(P)^T dO

D is not rowsum(dO * O), which belongs to the quantized P. But that is close: one pass over the keys, centred with
C = rowsum(dO * O), gives X = (P * (dP - C)) K and P K, and rowsum(P * (dP - C)) = D - C; then dQ = X - (D - C) P K.
No atomics: every sum has one order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.triton.flash_forward import last_tile
from quantctl.kernels.triton.flash_tiles import (
    amax_of_probabilities,
    draw_noise,
    load_head,
    load_rows,
    masked,
    multiply,
    operand,
    probabilities,
    quantized,
    scores,
    store_rows,
)


@triton.jit
def _query_tile(sums, q, q_rest, d_o, row_max, row_rcp, centre, k_scores_ptr, k_scores_stride, k_ptr, k_stride, v_ptr,
                v_stride, first_key, first_row, key_count, factor, CAUSAL: tl.constexpr, ONE_K: tl.constexpr,
                D: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, D_V: tl.constexpr, COLUMNS: tl.constexpr,
                ROWS: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    x_k, x_k_rest, p_k, p_k_rest, shift = sums
    k, k_rest = load_head(k_scores_ptr, first_key, k_scores_stride, key_count, D, HEAD, REST, KEYS, not MASKED, BITS)
    v = load_rows(v_ptr, first_key, v_stride, key_count, 0, D_V, KEYS, COLUMNS, not MASKED, BITS)
    p = probabilities(scores(q, q_rest, k, k_rest, ROWS, KEYS, REST), row_max[:, None], row_rcp[:, None], factor)
    if MASKED:
        p = masked(p, first_row, first_key, key_count, 0.0, CAUSAL, ROWS, KEYS)
    d_s = p * (scores(d_o, d_o, v, v, ROWS, KEYS, 0) - centre[:, None])
    if not ONE_K:
        k, k_rest = load_head(k_ptr, first_key, k_stride, key_count, D, HEAD, REST, KEYS, not MASKED, BITS)
    shift += tl.sum(d_s, axis=1)
    d_s = operand(d_s, k.dtype, BITS)
    p = operand(p, k.dtype, BITS)
    x_k = multiply(d_s, k, x_k)
    p_k = multiply(p, k, p_k)
    if REST:
        x_k_rest = multiply(d_s, k_rest, x_k_rest)
        p_k_rest = multiply(p, k_rest, p_k_rest)
    return x_k, x_k_rest, p_k, p_k_rest, shift


@triton.jit
def queries_kernel(q_ptr, k_scores_ptr, k_ptr, v_ptr, out_ptr, d_o_ptr, max_ptr, rcp_ptr, d_q_ptr, row_term_ptr,
                   q_strides, k_scores_strides, k_strides, v_strides, out_strides, d_o_strides, d_q_strides, heads,
                   group_size, row_count, key_count, factor, scale, CAUSAL: tl.constexpr, WHOLE_KEYS: tl.constexpr,
                   ONE_K: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, D_V: tl.constexpr,
                   COLUMNS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    """dQ, and D of each row for the kernel below. ONE_K: the scores' K is also the gradient product's."""
    tiles = tl.cdiv(row_count, ROWS)
    program = tl.program_id(0)
    batch_heads = tl.num_programs(0) // tiles
    batch, head = (program % batch_heads // heads).to(tl.int64), program % batch_heads % heads
    group = (head // group_size).to(tl.int64)
    first_row = (tiles - 1 - program // batch_heads) * ROWS
    rows = first_row + tl.arange(0, ROWS)
    q_ptr += batch * q_strides[0] + head.to(tl.int64) * q_strides[1]
    k_scores_ptr += batch * k_scores_strides[0] + group * k_scores_strides[1]
    k_ptr += batch * k_strides[0] + group * k_strides[1]
    v_ptr += batch * v_strides[0] + group * v_strides[1]
    out_ptr += batch * out_strides[0] + head.to(tl.int64) * out_strides[1]
    d_o_ptr += batch * d_o_strides[0] + head.to(tl.int64) * d_o_strides[1]
    d_q_ptr += batch * d_q_strides[0] + head.to(tl.int64) * d_q_strides[1]
    at = (batch * heads + head) * row_count + rows
    row_max = tl.load(max_ptr + at, mask=rows < row_count, other=0.0)
    row_rcp = tl.load(rcp_ptr + at, mask=rows < row_count, other=0.0)
    q, q_rest = load_head(q_ptr, first_row, q_strides[2], row_count, D, HEAD, REST, ROWS, False, BITS)
    d_o = load_rows(d_o_ptr, first_row, d_o_strides[2], row_count, 0, D_V, ROWS, COLUMNS, False, BITS)
    out = load_rows(out_ptr, first_row, out_strides[2], row_count, 0, D_V, ROWS, COLUMNS, False, BITS)
    centre = tl.sum(out.to(tl.float32) * d_o.to(tl.float32), axis=1)
    REST_COLUMNS: tl.constexpr = REST if REST else 16
    sums = (tl.zeros((ROWS, HEAD), tl.float32), tl.zeros((ROWS, REST_COLUMNS), tl.float32),
            tl.zeros((ROWS, HEAD), tl.float32), tl.zeros((ROWS, REST_COLUMNS), tl.float32),
            tl.zeros((ROWS,), tl.float32))  # fmt: skip
    last = last_tile(first_row, key_count, CAUSAL, ROWS, KEYS)
    if last > 0:
        for first_key in range(0, last, KEYS):
            sums = _query_tile(sums, q, q_rest, d_o, row_max, row_rcp, centre, k_scores_ptr, k_scores_strides[2], k_ptr,
                               k_strides[2], v_ptr, v_strides[2], first_key, first_row, key_count, factor, CAUSAL,
                               ONE_K, D, HEAD, REST, D_V, COLUMNS, ROWS, KEYS, False, BITS)  # fmt: skip
    sums = _query_tile(sums, q, q_rest, d_o, row_max, row_rcp, centre, k_scores_ptr, k_scores_strides[2], k_ptr,
                       k_strides[2], v_ptr, v_strides[2], last, first_row, key_count, factor, CAUSAL, ONE_K, D, HEAD,
                       REST, D_V, COLUMNS, ROWS, KEYS, CAUSAL or not WHOLE_KEYS, BITS)  # fmt: skip
    x_k, x_k_rest, p_k, p_k_rest, shift = sums
    tl.store(row_term_ptr + at, centre + shift, mask=rows < row_count)
    d_q = (x_k - shift[:, None] * p_k) * scale
    store_rows(d_q_ptr, first_row, d_q_strides[2], row_count, 0, d_q, D, ROWS, HEAD, BITS)
    if REST:
        d_q = (x_k_rest - shift[:, None] * p_k_rest) * scale
        store_rows(d_q_ptr, first_row, d_q_strides[2], row_count, HEAD, d_q, D, ROWS, REST, BITS)


@triton.jit
def _key_tile(sums, k, k_rest, v, q_scores_ptr, q_scores_stride, q_ptr, q_stride, d_o_ptr, d_o_stride, max_ptr,
              rcp_ptr, row_term_ptr, first_row, first_key, index, row_count, key_count, factor, amax_ptr, draw,
              CAUSAL: tl.constexpr, ONE_Q: tl.constexpr, WHOLE_ROWS: tl.constexpr, Q: tl.constexpr,
              FOURS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
              REST: tl.constexpr, D_V: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
              MASKED: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    d_k, d_k_rest, d_v = sums
    rows = first_row + tl.arange(0, ROWS)
    q, q_rest = load_head(q_scores_ptr, first_row, q_scores_stride, row_count, D, HEAD, REST, ROWS, WHOLE_ROWS, BITS)
    d_o = load_rows(d_o_ptr, first_row, d_o_stride, row_count, 0, D_V, ROWS, COLUMNS, WHOLE_ROWS, BITS)
    # zeros for rows that do not exist: their P and dS are 0
    row_max = tl.load(max_ptr + rows, mask=rows < row_count, other=0.0)
    row_rcp = tl.load(rcp_ptr + rows, mask=rows < row_count, other=0.0)
    row_term = tl.load(row_term_ptr + rows, mask=rows < row_count, other=0.0)
    p = probabilities(scores(q, q_rest, k, k_rest, ROWS, KEYS, REST), row_max[:, None], row_rcp[:, None], factor)
    if MASKED:
        p = masked(p, first_row, first_key, key_count, 0.0, CAUSAL, ROWS, KEYS)
    noise = 0.0
    if Q.value.ROUND == "stochastic":
        noise = draw_noise(index, first_row, first_key, key_count, draw, ROWS, KEYS, FOURS)
    amax = amax_of_probabilities(amax_ptr, row_rcp, Q, d_o.dtype, BITS)
    p_v = quantized(p, noise, amax, Q, ROWS, KEYS, d_o.dtype, BITS)
    d_v = multiply(tl.trans(p_v), d_o, d_v)
    d_s = operand(p * (scores(d_o, d_o, v, v, ROWS, KEYS, 0) - row_term[:, None]), d_o.dtype, BITS)
    if not ONE_Q:
        q, q_rest = load_head(q_ptr, first_row, q_stride, row_count, D, HEAD, REST, ROWS, WHOLE_ROWS, BITS)
    d_k = multiply(tl.trans(d_s), q, d_k)
    if REST:
        d_k_rest = multiply(tl.trans(d_s), q_rest, d_k_rest)
    return d_k, d_k_rest, d_v


@triton.jit(do_not_specialize=["seed_low", "seed_high", "call_low", "call_high", "rank"])
def keys_kernel(q_scores_ptr, q_ptr, k_ptr, v_ptr, d_o_ptr, max_ptr, rcp_ptr, row_term_ptr, d_k_ptr, d_v_ptr,
                amax_ptr, q_scores_strides, q_strides, k_strides, v_strides, d_o_strides, d_k_strides,
                d_v_strides, heads, groups, row_count, key_count, factor, scale, seed_low, seed_high, call_low,
                call_high, rank, PARTS: tl.constexpr, CAUSAL: tl.constexpr, ONE_Q: tl.constexpr,
                WHOLE_ROWS: tl.constexpr, WHOLE_KEYS: tl.constexpr, Q: tl.constexpr, FOURS: tl.constexpr,
                D: tl.constexpr, HEAD: tl.constexpr,
                REST: tl.constexpr, D_V: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
                BITS: tl.constexpr, OUT_BITS: tl.constexpr):  # fmt: skip
    """dK and dV of a tile of keys over PARTS-ths of the heads of its group.

    d_k, d_v: [part, batch, group, key, d] by four strides, to be added up over the parts.
    """
    tl.static_assert(KEYS % 32 == 0)
    tl.static_assert(ROWS == KEYS or not CAUSAL)
    program = tl.program_id(0)
    batches = tl.num_programs(0) // tl.cdiv(key_count, KEYS) // (groups * PARTS)
    # the first keys have the most queries: they start first
    first_key = program // (batches * groups * PARTS) * KEYS
    batch = (program // (groups * PARTS) % batches).to(tl.int64)
    group, part = (program // PARTS % groups).to(tl.int64), (program % PARTS).to(tl.int64)
    k_ptr += batch * k_strides[0] + group * k_strides[1]
    v_ptr += batch * v_strides[0] + group * v_strides[1]
    k, k_rest = load_head(k_ptr, first_key, k_strides[2], key_count, D, HEAD, REST, KEYS, False, BITS)
    v = load_rows(v_ptr, first_key, v_strides[2], key_count, 0, D_V, KEYS, COLUMNS, False, BITS)
    draw = (seed_low, seed_high, call_low, call_high, rank)
    REST_COLUMNS: tl.constexpr = REST if REST else 16
    sums = (tl.zeros((KEYS, HEAD), tl.float32), tl.zeros((KEYS, REST_COLUMNS), tl.float32),
            tl.zeros((KEYS, COLUMNS), tl.float32))  # fmt: skip
    heads_of_part = heads // groups // PARTS
    for i in range(heads_of_part):
        head = (group * PARTS + part) * heads_of_part + i
        at = (batch * heads + head) * row_count
        q_scores_at = q_scores_ptr + batch * q_scores_strides[0] + head * q_scores_strides[1]
        q_at = q_ptr + batch * q_strides[0] + head * q_strides[1]
        d_o_at = d_o_ptr + batch * d_o_strides[0] + head * d_o_strides[1]
        # under a causal mask earlier rows see none of these keys, later ones all
        for first_row in range(first_key + ROWS if CAUSAL else 0, row_count, ROWS):
            sums = _key_tile(sums, k, k_rest, v, q_scores_at, q_scores_strides[2], q_at, q_strides[2], d_o_at,
                             d_o_strides[2], max_ptr + at, rcp_ptr + at, row_term_ptr + at, first_row, first_key,
                             at * key_count, row_count, key_count, factor, amax_ptr, draw, CAUSAL, ONE_Q, WHOLE_ROWS,
                             Q, FOURS, D, HEAD, REST, D_V, COLUMNS, ROWS, KEYS,
                             not CAUSAL and not WHOLE_KEYS, BITS)  # fmt: skip
        if CAUSAL:
            sums = _key_tile(sums, k, k_rest, v, q_scores_at, q_scores_strides[2], q_at, q_strides[2], d_o_at,
                             d_o_strides[2], max_ptr + at, rcp_ptr + at, row_term_ptr + at, first_key, first_key,
                             at * key_count, row_count, key_count, factor, amax_ptr, draw, CAUSAL, ONE_Q, WHOLE_ROWS,
                             Q, FOURS, D, HEAD, REST, D_V, COLUMNS, ROWS, KEYS, True,
                             BITS)  # fmt: skip
    d_k, d_k_rest, d_v = sums
    d_k_ptr += part * d_k_strides[0] + batch * d_k_strides[1] + group * d_k_strides[2]
    d_v_ptr += part * d_v_strides[0] + batch * d_v_strides[1] + group * d_v_strides[2]
    store_rows(d_k_ptr, first_key, d_k_strides[3], key_count, 0, d_k * scale, D, KEYS, HEAD, OUT_BITS)
    if REST:
        store_rows(d_k_ptr, first_key, d_k_strides[3], key_count, HEAD, d_k_rest * scale, D, KEYS, REST, OUT_BITS)
    store_rows(d_v_ptr, first_key, d_v_strides[3], key_count, 0, d_v, D_V, KEYS, COLUMNS, OUT_BITS)
