"""Floating-point operations of a training step, counted as Megatron-LM counts them, so that the figures compare.

A matrix product [m, k] x [k, n] takes 2 m k n, and the backward twice the forward's: 6 for each weight and token.
Causal attention fills half of its two products. A token passes through the experts it is sent to, not through all.
Source: num_floating_point_operations in megatron/training/training.py; it adds the weights of norms, which this does
not (kv_lora_rank of them a layer with multi-latent attention).
"""

from __future__ import annotations

import argparse


def expert_layers(args: argparse.Namespace) -> list[bool]:
    """Whether each layer has experts."""
    if args.num_experts is None:
        return [False] * args.num_layers
    if isinstance(args.moe_layer_freq, int):
        return [layer % args.moe_layer_freq == 0 for layer in range(args.num_layers)]
    return [bool(layer) for layer in args.moe_layer_freq]


def _grouped_query_attention(args: argparse.Namespace) -> float:
    query = args.kv_channels * args.num_attention_heads
    key_and_value = 2 * args.kv_channels * args.num_query_groups
    projections = args.hidden_size * (query + key_and_value) + query * args.hidden_size
    return projections + query * args.seq_length


def _multi_latent_attention(args: argparse.Namespace) -> float:
    heads = args.num_attention_heads
    query_head = args.qk_head_dim + args.qk_pos_emb_head_dim
    if args.q_lora_rank is None:
        query = args.hidden_size * heads * query_head
    else:
        query = args.q_lora_rank * (args.hidden_size + heads * query_head)
    down = args.hidden_size * (args.kv_lora_rank + args.qk_pos_emb_head_dim)
    up = args.kv_lora_rank * heads * (args.qk_head_dim + args.v_head_dim)
    output = heads * args.v_head_dim * args.hidden_size
    return query + down + up + output + args.seq_length * heads * (query_head + args.v_head_dim) / 2


def flops_per_sample(args: argparse.Namespace) -> float:
    """Forward and backward of one sample of --seq-length tokens."""
    attention = _multi_latent_attention(args) if args.multi_latent_attention else _grouped_query_attention(args)
    matrices = 3 if args.swiglu else 2
    sparse = sum(expert_layers(args))
    widths = (args.num_layers - sparse) * args.ffn_hidden_size
    if sparse:
        shared = args.moe_shared_expert_intermediate_size or 0
        widths += sparse * (args.moe_router_topk * args.moe_ffn_hidden_size + shared)
    mlp = args.hidden_size * matrices * widths
    head = args.hidden_size * args.padded_vocab_size
    return 6.0 * args.seq_length * (args.num_layers * attention + mlp + head)
