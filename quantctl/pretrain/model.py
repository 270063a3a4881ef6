"""megatron-core's GPTModel with its local layers, from the flags."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from quantctl.pretrain.gradients import is_expert


def _present(kind: type, **values: Any) -> dict[str, Any]:
    """Those of the values whose fields this release has."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in fields}


def _latent_attention(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    values = {
        name: getattr(args, name)
        for name in (
            "multi_latent_attention",
            "q_lora_rank",
            "kv_lora_rank",
            "qk_head_dim",
            "qk_pos_emb_head_dim",
            "v_head_dim",
            "rotary_base",
            "rotary_percent",
            "rotary_scaling_factor",
            "mscale",
            "mscale_all_dim",
        )
    }
    if args.rope_type is not None:
        values["rope_type"] = args.rope_type
    # up to 0.13 this is also the length that YaRN extends, which has a field of its own later
    return values | _present(kind, max_position_embeddings=args.max_position_embeddings)


def _experts(args: argparse.Namespace) -> dict[str, Any]:
    names = [name for name in vars(args) if name.startswith("moe_")]
    return {"num_moe_experts": args.num_experts} | {name: getattr(args, name) for name in names}


def transformer_config(args: argparse.Namespace, device: torch.device):
    """The TransformerConfig that Megatron-LM derives from the same flags, with every fused kernel off."""
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    kind = MLATransformerConfig if args.multi_latent_attention else TransformerConfig
    recompute: dict[str, Any] = {}
    if device.type == "cuda":  # recomputation restores CUDA generators; on a CPU it would change nothing but the time
        recompute = {
            "recompute_granularity": args.recompute_granularity,
            "recompute_method": args.recompute_method,
            "recompute_num_layers": args.recompute_num_layers,
        }
        if args.recompute_modules:
            recompute["recompute_modules"] = args.recompute_modules
    return kind(
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
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size,
        sequence_parallel=args.sequence_parallel,
        deterministic_mode=args.deterministic_mode,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        **recompute,
        **(_latent_attention(args, kind) if args.multi_latent_attention else {}),
        **(_experts(args) if args.num_experts is not None else {}),
        **_present(kind, transformer_impl="local"),
    )


def _layer_spec(args: argparse.Namespace, config: Any) -> Any:
    """The local layers: one specification for all layers, or with experts one for each."""
    from megatron.core.models.gpt import gpt_layer_specs

    if args.num_experts is not None:
        return gpt_layer_specs.get_gpt_decoder_block_spec(
            config, use_transformer_engine=False, normalization=args.normalization
        )
    return gpt_layer_specs.get_gpt_layer_local_spec(
        qk_layernorm=args.qk_layernorm,
        normalization=args.normalization,
        multi_latent_attention=args.multi_latent_attention,
    )


@contextlib.contextmanager
def _experts_drawn_as_one() -> Iterator[None]:
    """Expert parallel ranks draw the weights of all experts and keep their own.

    So weights do not depend on the expert parallel size, and the ranks' generators stay in step.
    """
    from megatron.core import parallel_state
    from megatron.core.transformer.moe.experts import SequentialMLP

    stock = SequentialMLP.__init__
    own, ranks = parallel_state.get_expert_model_parallel_rank(), parallel_state.get_expert_model_parallel_world_size()

    def draw_all(self: Any, *arguments: Any, **keywords: Any) -> None:
        for rank in range(ranks):
            stock(self if rank == own else SequentialMLP.__new__(SequentialMLP), *arguments, **keywords)

    SequentialMLP.__init__ = draw_all
    try:
        yield
    finally:
        SequentialMLP.__init__ = stock


def build_model(args: argparse.Namespace, device: torch.device) -> torch.nn.Module:
    """The model on `device`; needs torch's generator seeded and `args.padded_vocab_size` set.

    Weights are drawn whole on the CPU and then split, so they do not depend on how many ranks share them.
    """
    from megatron.core.models.gpt import GPTModel

    config = transformer_config(args, device)
    with _experts_drawn_as_one() if args.num_experts is not None else contextlib.nullcontext():
        model = GPTModel(
            config=config,
            transformer_layer_spec=_layer_spec(args, config),
            vocab_size=args.padded_vocab_size,
            max_sequence_length=args.max_position_embeddings,
            share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
            position_embedding_type=args.position_embedding_type,
            rotary_percent=args.rotary_percent,
            rotary_base=args.rotary_base,
            rope_scaling=args.use_rope_scaling,
            rope_scaling_factor=args.rope_scaling_factor,
        )
    # the norms are created in fp32; Megatron-LM's Float16Module casts the whole model
    model.to(device=device, dtype=config.params_dtype)
    return model


def parameter_count(model: torch.nn.Module, args: argparse.Namespace) -> int:
    """Parameters of the whole model, over all ranks that share it."""
    total = 0
    for parameter in model.parameters():
        expert = is_expert(parameter)
        ranks = args.expert_tensor_parallel_size if expert else args.tensor_model_parallel_size
        split = ranks if getattr(parameter, "tensor_model_parallel", False) else 1
        total += parameter.numel() * split * (args.expert_model_parallel_size if expert else 1)
    return total
