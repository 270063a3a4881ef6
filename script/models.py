"""The three models: true architectures, reduced ones of the same kind for smoke runs, and their layouts.

Sizes are those of the published Hugging Face configurations. Every flag that a field becomes (see flags.py)
exists under that name in all Megatron releases from 0.12.3 to 0.19.0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mla:
    """Multi-latent attention: keys and values come from one compressed vector a token."""

    kv_lora_rank: int
    """Width of the compressed key-value vector."""
    qk_head_dim: int
    """Width of a query or key head without its rotary part."""
    qk_pos_emb_head_dim: int
    """Width of the rotary part of a query or key head; keys share it between heads."""
    v_head_dim: int
    """Width of a value head."""
    rotary_scaling_factor: float
    """YaRN's context extension. Megatron's command line defaults to 1.0, so it is always given."""
    mscale: float
    """YaRN's attention temperature. Releases differ in which of the two they read; they are equal here."""
    mscale_all_dim: float
    """YaRN's temperature on all dimensions."""


@dataclass(frozen=True)
class Moe:
    """Mixture of experts. The router takes its softmax over all experts and keeps the top k unnormalized."""

    num_experts: int
    """Routed experts of a layer."""
    topk: int
    """Experts that a token is sent to."""
    ffn_hidden_size: int
    """Intermediate width of a routed expert."""
    shared_intermediate_size: int
    """Intermediate width of all shared experts together."""
    dense_layers: int
    """Layers at the bottom that have a dense MLP instead of experts."""
    aux_loss_coeff: float
    """Weight of the load-balancing loss, computed a sequence."""


@dataclass(frozen=True)
class Architecture:
    """What defines the network. Head counts, ratios and rotary embeddings decide its kind; sizes decide its cost."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    ffn_hidden_size: int
    """Intermediate width of a dense MLP (SwiGLU: gate and up projection have this width each)."""
    num_attention_heads: int
    """Query heads."""
    num_query_groups: int | None
    """Key-value heads (grouped-query attention); None with MLA, which excludes that flag."""
    kv_channels: int | None
    """Width of a head; None with MLA."""
    max_position_embeddings: int
    """Longest sequence Megatron accepts. Up to 0.13.1 MLA also reads it as YaRN's original length, hence 4096 there."""
    rotary_base: int
    """Theta of the rotary embedding."""
    rope_scaling_factor: float | None
    """Llama 3's frequency scaling. pretrain_gpt.py parses --rope-scaling-factor in every release and passes it to
    the model in none, so there the factor is 8 whatever is asked; no other flag reaches it. quantctl.pretrain
    passes it on."""
    tied_embeddings: bool
    """The output layer shares the embedding's weight."""
    vocab_size: int | None
    """Rows of the embedding, as published. None: the tokenizer decides (smoke). Megatron takes the size from a
    Hugging Face tokenizer and pads it; the flag itself counts with --tokenizer-type NullTokenizer only."""
    make_vocab_size_divisible_by: int
    """Padding that turns the tokenizer's length into the published size."""
    norm_epsilon: float
    """Epsilon of every RMSNorm."""
    init_method_std: float
    """Standard deviation of the initial weights; Megatron divides it by sqrt(2 * layers) in output projections."""
    mla: Mla | None = None
    """Multi-latent attention in place of grouped-query attention."""
    moe: Moe | None = None
    """Experts in place of dense MLPs."""


@dataclass(frozen=True)
class Recipe:
    """How one architecture is laid out and optimized."""

    seq_length: int
    """Tokens of a training sequence."""
    micro_batch_size: int
    """Sequences a GPU computes at once."""
    lr: float
    """Peak learning rate, after warm-up."""
    min_lr: float
    """Learning rate at the end of the cosine."""
    tensor_parallel: int = 1
    """Tensor-parallel ranks. The local layers have no sequence parallelism with RMSNorm, and local experts need it
    when this is above 1."""
    expert_parallel: int = 1
    """Ranks that share the experts of a layer."""
    recompute_modules: tuple[str, ...] = ()
    """Parts whose activations are computed again in the backward pass. Unfused attention keeps several
    heads x sequence^2 tensors a layer, so core_attn is always among them at full size."""


@dataclass(frozen=True)
class Model:
    """One model of the registry."""

    name: str
    """Folder and command-line name."""
    title: str
    """The name people use."""
    source: str
    """Where the sizes come from."""
    tokenizer: str
    """The published tokenizer, as an example of what TOKENIZER takes."""
    full: Architecture
    """The true architecture: training configs standard and fast."""
    full_recipe: Recipe
    """Its layout and optimization on 8 GPUs of 80 GB."""
    smoke: Architecture
    """The same kind of network, small enough for a CPU."""
    smoke_recipe: Recipe
    """Its optimization, one process."""
    memory: str
    """Why full_recipe fits: GB (1e9 bytes) a GPU."""
    note: str = ""
    """What a user of this model's scripts must know."""


_LLAMA31_8B = Architecture(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=128,
    max_position_embeddings=131072,
    rotary_base=500000,
    rope_scaling_factor=8.0,
    tied_embeddings=False,
    vocab_size=128256,
    make_vocab_size_divisible_by=128,
    norm_epsilon=1e-5,
    init_method_std=0.02,
)

_LLAMA32_1B = replace(
    _LLAMA31_8B,
    num_layers=16,
    hidden_size=2048,
    ffn_hidden_size=8192,
    kv_channels=64,
    rope_scaling_factor=32.0,
    tied_embeddings=True,
)

_DEEPSEEK2_LITE = Architecture(
    num_layers=27,
    hidden_size=2048,
    ffn_hidden_size=10944,
    num_attention_heads=16,
    num_query_groups=None,
    kv_channels=None,
    max_position_embeddings=4096,
    rotary_base=10000,
    rope_scaling_factor=None,
    tied_embeddings=False,
    vocab_size=102400,
    # the tokenizer has 100,0xx entries, the embedding 102,400 rows: 32 * 3200
    make_vocab_size_divisible_by=3200,
    norm_epsilon=1e-6,
    # the paper's; the published config.json says 0.02, the library's default
    init_method_std=0.006,
    mla=Mla(
        kv_lora_rank=512,
        qk_head_dim=128,
        qk_pos_emb_head_dim=64,
        v_head_dim=128,
        rotary_scaling_factor=40.0,
        mscale=0.707,
        mscale_all_dim=0.707,
    ),
    moe=Moe(
        num_experts=64,
        topk=6,
        ffn_hidden_size=1408,
        shared_intermediate_size=2816,
        dense_layers=1,
        aux_loss_coeff=0.001,
    ),
)

_SMOKE_RECIPE = Recipe(seq_length=256, micro_batch_size=4, lr=2e-3, min_lr=2e-4)
_SMOKE = {"vocab_size": None, "make_vocab_size_divisible_by": 128}

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="llama31-8b",
            title="Llama 3.1 8B",
            source="arXiv 2407.21783; huggingface.co/meta-llama/Llama-3.1-8B config.json",
            tokenizer="meta-llama/Llama-3.1-8B",
            full=_LLAMA31_8B,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=1,
                lr=3e-4,
                min_lr=3e-5,
                tensor_parallel=2,
                recompute_modules=("core_attn",),
            ),
            # GQA 4:1, ffn 3.5 x hidden, untied, scaling x8
            smoke=replace(
                _LLAMA31_8B,
                num_layers=4,
                hidden_size=256,
                ffn_hidden_size=896,
                num_attention_heads=8,
                num_query_groups=2,
                kv_channels=32,
                **_SMOKE,
            ),
            smoke_recipe=_SMOKE_RECIPE,
            memory="8.03e9 parameters over TP 2: weights and fp32 gradients 6 B x 4.02e9 = 24, optimizer 12 B x 4.02e9 "
            "/ DP 4 = 12, activations of 32 layers at about 0.45 = 14, one layer's attention recomputed 4, logits 3: 57.",
        ),
        Model(
            name="llama32-1b",
            title="Llama 3.2 1B",
            source="huggingface.co/meta-llama/Llama-3.2-1B config.json",
            tokenizer="meta-llama/Llama-3.2-1B",
            full=_LLAMA32_1B,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=2,
                lr=3e-4,
                min_lr=3e-5,
                recompute_modules=("core_attn",),
            ),
            # GQA 4:1, ffn 4 x hidden, tied, scaling x32
            smoke=replace(
                _LLAMA32_1B,
                num_layers=2,
                hidden_size=256,
                ffn_hidden_size=1024,
                num_attention_heads=8,
                num_query_groups=2,
                kv_channels=32,
                **_SMOKE,
            ),
            smoke_recipe=_SMOKE_RECIPE,
            memory="1.24e9 parameters: weights and fp32 gradients 6 B x 1.24e9 = 7, optimizer 12 B x 1.24e9 / DP 8 = 2, "
            "activations of 16 layers at about 0.8 = 13, one layer's attention recomputed 11, logits 11: 44.",
            note="pretrain_gpt.py does not pass --rope-scaling-factor to the model: with it the factor is 8, not 32.",
        ),
        Model(
            name="deepseek2_lite",
            title="DeepSeek-V2-Lite",
            source="arXiv 2405.04434; huggingface.co/deepseek-ai/DeepSeek-V2-Lite config.json",
            tokenizer="deepseek-ai/DeepSeek-V2-Lite",
            full=_DEEPSEEK2_LITE,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=1,
                lr=4.2e-4,
                min_lr=4.2e-5,
                expert_parallel=8,
                recompute_modules=("core_attn", "moe"),
            ),
            # MLA without query compression, first layer dense, shared experts, top k of many
            smoke=replace(
                _DEEPSEEK2_LITE,
                num_layers=3,
                hidden_size=256,
                ffn_hidden_size=1024,
                num_attention_heads=4,
                mla=replace(
                    _DEEPSEEK2_LITE.mla, kv_lora_rank=64, qk_head_dim=32, qk_pos_emb_head_dim=32, v_head_dim=32
                ),
                moe=replace(
                    _DEEPSEEK2_LITE.moe, num_experts=8, topk=2, ffn_hidden_size=128, shared_intermediate_size=256
                ),
                **_SMOKE,
            ),
            smoke_recipe=_SMOKE_RECIPE,
            memory="1.32e9 parameters outside the experts and 14.39e9 / EP 8 = 1.80e9 in them: weights and fp32 gradients "
            "6 B x 3.12e9 = 19, optimizer 12 B x (1.32e9 / DP 8 + 1.80e9) = 24, activations of 27 layers at about 0.35 = 9, "
            "one expert layer recomputed 1, attention 3, logits 4: 60.",
            note="Local layers with MLA and experts need a tree in which they work: stock releases reject them.",
        ),
    )
}
"""Name -> model."""
