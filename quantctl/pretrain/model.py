"""megatron-core's GPTModel with its local layers, from the flags."""

from __future__ import annotations

import argparse
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F


def transformer_config(args: argparse.Namespace, device: torch.device):
    """The TransformerConfig that Megatron-LM derives from the same flags, with every fused kernel off."""
    from megatron.core.transformer import TransformerConfig

    recompute: dict[str, Any] = {}
    if device.type == "cuda":  # recomputation restores CUDA generators; on a CPU it would change nothing but the time
        recompute = {
            "recompute_granularity": args.recompute_granularity,
            "recompute_method": args.recompute_method,
            "recompute_num_layers": args.recompute_num_layers,
        }
    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        kv_channels=args.kv_channels,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        qk_layernorm=args.qk_layernorm,
        gated_linear_unit=args.swiglu,
        activation_func=F.silu if args.swiglu else F.gelu,
        add_bias_linear=not args.disable_bias_linear,
        add_qkv_bias=args.add_qkv_bias,
        attention_dropout=args.attention_dropout,
        hidden_dropout=args.hidden_dropout,
        attention_softmax_in_fp32=args.attention_softmax_in_fp32 or args.apply_query_key_layer_scaling,
        apply_query_key_layer_scaling=args.apply_query_key_layer_scaling,
        init_method_std=args.init_method_std,
        use_cpu_initialization=True,
        params_dtype=torch.bfloat16 if args.bf16 else torch.float32,
        pipeline_dtype=torch.bfloat16 if args.bf16 else torch.float32,
        bf16=args.bf16,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        deterministic_mode=args.deterministic_mode,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        **recompute,
    )


def _rotary_on_cpu(self, max_seq_len: int, offset: int = 0, packed_seq: bool = False, cp_group=None) -> torch.Tensor:
    """RotaryEmbedding.forward without its move to CUDA: angles [s, 1, 1, dim], both halves of dim alike."""
    freqs = self.get_freqs_non_repeated(max_seq_len, offset)
    return torch.cat((freqs, freqs), dim=-1)[:, None, None, :]


def build_model(args: argparse.Namespace, device: torch.device) -> torch.nn.Module:
    """The model on `device`; needs torch's generator seeded and `args.padded_vocab_size` set.

    Weights are drawn whole on the CPU and then split, so they do not depend on the tensor parallel size.
    """
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    config = transformer_config(args, device)
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(
            qk_layernorm=args.qk_layernorm, normalization=args.normalization
        ),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        rope_scaling_factor=args.rope_scaling_factor,
    )
    if args.position_embedding_type == "rope" and device.type == "cpu":
        model.rotary_pos_emb.forward = MethodType(_rotary_on_cpu, model.rotary_pos_emb)
    # the norms are created in fp32; Megatron-LM's Float16Module casts the whole model
    model.to(device=device, dtype=config.params_dtype)
    return model


def parameter_count(model: torch.nn.Module, args: argparse.Namespace) -> int:
    """Parameters of the whole model, over all tensor parallel ranks."""
    shards = args.tensor_model_parallel_size
    return sum(p.numel() * (shards if getattr(p, "tensor_model_parallel", False) else 1) for p in model.parameters())


def flops_per_sample(args: argparse.Namespace) -> float:
    """Floating-point operations of forward and backward for one sample of a dense model.

    A matrix product [m, k] x [k, n] takes 2 m k n, and the backward twice the forward's: 6 for each weight and
    token. Causal attention fills half of the two [s, s] products. Counts what Megatron-LM's
    num_floating_point_operations counts, so that the throughput figures compare.
    """
    query = args.kv_channels * args.num_attention_heads
    key_and_value = 2 * args.kv_channels * args.num_query_groups
    attention = args.hidden_size * (query + key_and_value) + query * args.hidden_size + query * args.seq_length
    mlp = args.hidden_size * args.ffn_hidden_size * (3 if args.swiglu else 2)
    head = args.hidden_size * args.padded_vocab_size
    return 6.0 * args.seq_length * (args.num_layers * (attention + mlp) + head)
