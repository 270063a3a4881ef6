"""megatron-core's GPTModel with its local layers, from the flags."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from quantctl.pretrain.flags import FLAGS
from quantctl.pretrain.gradients import is_expert
from quantctl.pretrain.release import keywords, normalization, require

_FUSIONS = (
    *("masked_softmax_fusion", "bias_activation_fusion", "bias_dropout_fusion", "apply_rope_fusion"),
    *("gradient_accumulation_fusion", "persist_layer_norm"),
)


def _without(args: argparse.Namespace) -> dict[str, Any]:
    """What a release does that lacks a parameter."""
    return {
        **{flag.dest: flag.default for flag in FLAGS.values()},
        **dict.fromkeys(_FUSIONS, False),
        "expert_tensor_parallel_size": args.tensor_model_parallel_size,
        "moe_router_dtype": None if args.bf16 else args.moe_router_dtype,
        "rope_scaling": False,
        "rope_scaling_factor": 8.0 if args.use_rope_scaling else args.rope_scaling_factor,
        # up to 0.11 the local layers read it from the configuration
        "normalization": args.normalization,
        # up to 0.13 it is also the length that YaRN extends, which has a field of its own later
        "max_position_embeddings": args.max_position_embeddings,
        "transformer_impl": "local",
    }


def _latent_attention(args: argparse.Namespace) -> dict[str, Any]:
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
    return values | {"max_position_embeddings": args.max_position_embeddings}


def _experts(args: argparse.Namespace) -> dict[str, Any]:
    names = [name for name in vars(args) if name.startswith("moe_")]
    return {"num_moe_experts": args.num_experts} | {name: getattr(args, name) for name in names}


def transformer_config(args: argparse.Namespace, device: torch.device, left_out: list[str] | None = None):
    """The TransformerConfig that Megatron-LM derives from the same flags, with every fused kernel off.

    Raises QuantctlError for what this release cannot do; what `left_out` is: see `keywords`.
    """
    from megatron.core import transformer

    kind = transformer.TransformerConfig
    if args.multi_latent_attention:
        kind = require(transformer, "MLATransformerConfig", "multi-latent attention")
    recompute: dict[str, Any] = {}
    if device.type == "cuda":  # recomputation restores CUDA generators; on a CPU it would change nothing but the time
        recompute = {
            "recompute_granularity": args.recompute_granularity,
            "recompute_method": args.recompute_method,
            "recompute_num_layers": args.recompute_num_layers,
        }
        if args.recompute_modules:
            recompute["recompute_modules"] = args.recompute_modules
    wanted = dict(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        kv_channels=args.kv_channels,
        normalization=normalization(args.normalization, left_out),
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
        transformer_impl="local",
        **dict.fromkeys(_FUSIONS, False),
        **recompute,
        **(_latent_attention(args) if args.multi_latent_attention else {}),
        **(_experts(args) if args.num_experts is not None else {}),
    )
    return kind(**keywords(kind, wanted, _without(args), left_out))


def _layer_spec(args: argparse.Namespace, config: Any) -> Any:
    """The local layers: one specification for all layers, or with experts one for each."""
    from megatron.core.models.gpt import gpt_layer_specs

    if args.num_experts is not None:
        block = require(gpt_layer_specs, "get_gpt_decoder_block_spec", "models in which only some layers have experts")
        wanted: dict[str, Any] = {"use_transformer_engine": False, "normalization": args.normalization}
        return block(config, **keywords(block, wanted, _without(args)))
    local = gpt_layer_specs.get_gpt_layer_local_spec
    wanted = {
        "qk_layernorm": args.qk_layernorm,
        "normalization": args.normalization,
        "multi_latent_attention": args.multi_latent_attention,
    }
    return local(**keywords(local, wanted, _without(args)))


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


def build_model(args: argparse.Namespace, device: torch.device, left_out: list[str] | None = None) -> torch.nn.Module:
    """The model on `device`; needs torch's generator seeded and `args.padded_vocab_size` set.

    Weights are drawn whole on the CPU and then split, so they do not depend on how many ranks share them. Raises
    QuantctlError for what this release cannot do; what `left_out` is: see `keywords`.
    """
    from megatron.core.models.gpt import GPTModel

    config = transformer_config(args, device, left_out)
    wanted = {
        "config": config,
        "transformer_layer_spec": _layer_spec(args, config),
        "vocab_size": args.padded_vocab_size,
        "max_sequence_length": args.max_position_embeddings,
        "share_embeddings_and_output_weights": not args.untie_embeddings_and_output_weights,
        "position_embedding_type": args.position_embedding_type,
        "rotary_percent": args.rotary_percent,
        "rotary_base": args.rotary_base,
        "rope_scaling": args.use_rope_scaling,
        "rope_scaling_factor": args.rope_scaling_factor,
    }
    with _experts_drawn_as_one() if args.num_experts is not None else contextlib.nullcontext():
        model = GPTModel(**keywords(GPTModel, wanted, _without(args), left_out))
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
