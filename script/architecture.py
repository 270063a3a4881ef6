"""What the table of models is made of: architectures, their layouts, and the two together.

Every flag that a field becomes (see flags.py) exists under that name in all Megatron releases from 0.12.3 to 0.19.0.
"""

from __future__ import annotations

from dataclasses import dataclass


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
