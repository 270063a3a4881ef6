"""How many parameters an architecture has."""

from __future__ import annotations

from quantctl.script.architecture import Architecture, Mla


def _grouped_query_attention(arch: Architecture) -> int:
    assert arch.kv_channels is not None
    assert arch.num_query_groups is not None
    query = arch.num_attention_heads * arch.kv_channels
    key_value = 2 * arch.num_query_groups * arch.kv_channels
    return arch.hidden_size * (query + key_value) + query * arch.hidden_size


def _latent_attention(arch: Architecture, mla: Mla) -> int:
    """Query, compression with the rotary key, its norm, decompression, output."""
    hidden, heads, rank = arch.hidden_size, arch.num_attention_heads, mla.kv_lora_rank
    query = hidden * heads * (mla.qk_head_dim + mla.qk_pos_emb_head_dim)
    down = hidden * (rank + mla.qk_pos_emb_head_dim) + rank
    up = rank * heads * (mla.qk_head_dim + mla.v_head_dim)
    return query + down + up + heads * mla.v_head_dim * hidden


def _mlp(hidden: int, intermediate: int) -> int:
    """SwiGLU: gate, up and down projection."""
    return 3 * hidden * intermediate


def _count(arch: Architecture, experts_used: int | None) -> int:
    if arch.vocab_size is None:
        raise ValueError("the tokenizer decides this architecture's vocabulary")
    hidden = arch.hidden_size
    attention = _grouped_query_attention(arch) if arch.mla is None else _latent_attention(arch, arch.mla)
    total = arch.num_layers * (attention + 2 * hidden) + hidden
    total += arch.vocab_size * hidden * (1 if arch.tied_embeddings else 2)
    if arch.moe is None:
        return total + arch.num_layers * _mlp(hidden, arch.ffn_hidden_size)
    moe = arch.moe
    experts = moe.num_experts if experts_used is None else experts_used
    sparse = experts * _mlp(hidden, moe.ffn_hidden_size) + _mlp(hidden, moe.shared_intermediate_size)
    sparse += moe.num_experts * hidden
    total += moe.dense_layers * _mlp(hidden, arch.ffn_hidden_size)
    return total + (arch.num_layers - moe.dense_layers) * sparse


def parameters(arch: Architecture) -> int:
    """All weights; a shared embedding counts once."""
    return _count(arch, None)


def active_parameters(arch: Architecture) -> int:
    """The weights that one token is multiplied with: the top k of the routed experts, and no input embedding, which is
    looked up, unless it is the output layer as well."""
    assert arch.vocab_size is not None
    lookup = 0 if arch.tied_embeddings else arch.vocab_size * arch.hidden_size
    return _count(arch, None if arch.moe is None else arch.moe.topk) - lookup
