"""From the tables to Megatron's flags: which field is which flag, and which flags every run needs.

A line is a flag with its values: `("--num-layers", "32")`. All of them exist in every release from 0.12.3 to
0.19.0. What is missing here on purpose:

- `--rope-type` exists from 0.14 on only; MLA means YaRN without it.
- `--sequence-parallel` stops the local layers with RMSNorm.
- `--moe-grouped-gemm` with local layers bypasses the linear selector up to 0.16.1.
- `--attention-backend local` does not choose local attention and stops; `unfused` is the explicit choice.
"""

from __future__ import annotations

from typing import Any

from quantctl.script.architecture import Architecture, Recipe
from quantctl.script.training import Optimizer, TrainingConfig

Line = tuple[str, ...]

# the local layers need neither Apex nor CUDA extensions
LOCAL_LAYERS: tuple[Line, ...] = (
    ("--transformer-impl", "local"),
    ("--attention-backend", "unfused"),
    ("--no-persist-layer-norm",),
    ("--no-gradient-accumulation-fusion",),
    ("--no-masked-softmax-fusion",),
    ("--no-rope-fusion",),
)

# Transformer Engine's bring their own fusions; which attention it takes where no format is asked for depends on the GPU
TE_LAYERS: tuple[Line, ...] = (
    ("--transformer-impl", "transformer_engine"),
    ("--attention-backend", "auto"),
)
TE_EXPERTS: Line = ("--moe-grouped-gemm",)

LAYERS = {"local": LOCAL_LAYERS, "transformer_engine": TE_LAYERS}
"""TRANSFORMER_IMPL -> the flags of these layers; a script has those of the first one."""

COMMON_ARCHITECTURE: tuple[Line, ...] = (
    ("--position-embedding-type", "rope"),
    ("--rotary-percent", "1.0"),
    ("--normalization", "RMSNorm"),
    ("--swiglu",),
    ("--disable-bias-linear",),
    ("--attention-dropout", "0.0"),
    ("--hidden-dropout", "0.0"),
)

ARCHITECTURE = {
    "num_layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "ffn_hidden_size": "--ffn-hidden-size",
    "num_attention_heads": "--num-attention-heads",
    "num_query_groups": "--num-query-groups",
    "kv_channels": "--kv-channels",
    "max_position_embeddings": "--max-position-embeddings",
    "rotary_base": "--rotary-base",
    "rope_scaling_factor": "--rope-scaling-factor",
    "vocab_size": "--vocab-size",
    "make_vocab_size_divisible_by": "--make-vocab-size-divisible-by",
    "norm_epsilon": "--norm-epsilon",
    "init_method_std": "--init-method-std",
}

MLA = {
    "kv_lora_rank": "--kv-lora-rank",
    "qk_head_dim": "--qk-head-dim",
    "qk_pos_emb_head_dim": "--qk-pos-emb-head-dim",
    "v_head_dim": "--v-head-dim",
    "rotary_scaling_factor": "--rotary-scaling-factor",
    "mscale": "--mscale",
    "mscale_all_dim": "--mscale-all-dim",
}

MOE = {
    "num_experts": "--num-experts",
    "topk": "--moe-router-topk",
    "ffn_hidden_size": "--moe-ffn-hidden-size",
    "shared_intermediate_size": "--moe-shared-expert-intermediate-size",
    "aux_loss_coeff": "--moe-aux-loss-coeff",
}

MOE_FIXED: tuple[Line, ...] = (
    ("--moe-router-pre-softmax",),
    ("--moe-router-load-balancing-type", "seq_aux_loss"),
    ("--moe-router-dtype", "fp32"),
    ("--moe-token-dispatcher-type", "alltoall"),
)

# what --recompute-granularity selective means by itself
RECOMPUTED_BY_SELECTIVE = ("core_attn",)

OPTIMIZER = {
    "weight_decay": "--weight-decay",
    "adam_beta1": "--adam-beta1",
    "adam_beta2": "--adam-beta2",
    "adam_eps": "--adam-eps",
    "clip_grad": "--clip-grad",
}


def number(value: float | str) -> str:
    """A number as a command line writes it: 500000, 1e-05, 0.95."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fields(row: Any, table: dict[str, str]) -> list[Line]:
    values = {flag: getattr(row, field) for field, flag in table.items()}
    return [(flag, number(value)) for flag, value in values.items() if value is not None]


def architecture(arch: Architecture) -> list[Line]:
    """The flags that define the network; those of the layers' implementation are LOCAL_LAYERS."""
    lines = _fields(arch, ARCHITECTURE)
    if arch.num_query_groups is not None:
        lines.append(("--group-query-attention",))
    if arch.rope_scaling_factor is not None:
        lines.append(("--use-rope-scaling",))
    if not arch.tied_embeddings:
        lines.append(("--untie-embeddings-and-output-weights",))
    if arch.mla is not None:
        # the norm of the compressed vector, which the published model has, is qk-layernorm in Megatron's words
        lines += [("--multi-latent-attention",), ("--qk-layernorm",), *_fields(arch.mla, MLA)]
    if arch.moe is not None:
        sparse = arch.num_layers - arch.moe.dense_layers
        lines += _fields(arch.moe, MOE)
        lines.append(("--moe-layer-freq", f"([0]*{arch.moe.dense_layers}+[1]*{sparse})"))
        lines += MOE_FIXED
    return lines + list(COMMON_ARCHITECTURE)


def recipe(rec: Recipe) -> list[Line]:
    """Batch and learning rate of one architecture."""
    return [
        ("--seq-length", number(rec.seq_length)),
        ("--micro-batch-size", number(rec.micro_batch_size)),
        ("--lr", number(rec.lr)),
        ("--min-lr", number(rec.min_lr)),
    ]


def parallel(rec: Recipe, smoke: bool) -> list[Line]:
    """How a model is spread over GPUs; a smoke run is one process and needs no distributed optimizer."""
    lines: list[Line] = [
        ("--tensor-model-parallel-size", number(rec.tensor_parallel)),
        ("--pipeline-model-parallel-size", "1"),
    ]
    if rec.expert_parallel > 1:
        lines.append(("--expert-model-parallel-size", number(rec.expert_parallel)))
    if rec.recompute_modules:
        lines.append(("--recompute-granularity", "selective"))
    if rec.recompute_modules not in ((), RECOMPUTED_BY_SELECTIVE):
        lines.append(("--recompute-modules", *rec.recompute_modules))
    if not smoke:
        lines += [("--use-distributed-optimizer",), ("--overlap-grad-reduce",), ("--overlap-param-gather",)]
    return lines


def optimizer(row: Optimizer) -> list[Line]:
    """AdamW, the schedule's shape, clipping."""
    return [("--lr-decay-style", "cosine"), *_fields(row, OPTIMIZER)]


def logging(config: TrainingConfig) -> list[Line]:
    """How closely a run is watched."""
    return [
        ("--log-interval", number(config.log_interval)),
        ("--eval-interval", number(config.eval_interval)),
        ("--eval-iters", number(config.eval_iters)),
    ]


def steps(config: TrainingConfig) -> list[Line]:
    """How long a run is, and its number format outside the products; fp32 is Megatron's behaviour without a flag."""
    lines: list[Line] = [
        ("--global-batch-size", number(config.global_batch_size)),
        ("--train-iters", number(config.train_iters)),
        ("--lr-warmup-iters", number(config.train_iters // config.warmup_divisor)),
    ]
    return lines if config.dtype == "fp32" else [*lines, (f"--{config.dtype}",)]


def saving(config: TrainingConfig) -> list[Line]:
    """How often and in which form checkpoints are written."""
    return [("--save-interval", number(config.save_interval)), ("--ckpt-format", "torch")]
