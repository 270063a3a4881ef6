"""Multi-latent attention (DeepSeek-V2) with the local layers.

MLASelfAttention builds its core attention with `k_channels` and `v_channels`, the widths of a head's keys and values,
which differ there. Only Transformer Engine's attention takes them. In 0.14 - 0.16 without Transformer Engine, the
constructor stops even before that is used: HAVE_TE says whether the module of Megatron's TE layers can be imported,
which it always can, and TELinear is then no class.

From 0.19 on a resolver places the norms of queries and keys. The local layers' spec names both with --qk-layernorm, but
without --q-lora-rank (DeepSeek-V2-Lite) queries have none, and the resolver refuses what it could leave out.
"""

from __future__ import annotations

from quantctl.patches.patch import ATTENTION, Edit, Kind, Patch

_HEAD_SIZES = """
if k_channels is not None:
    # quantctl: multi-latent attention has queries and keys of another width than values
    self.hidden_size_per_attention_head = k_channels
if v_channels is not None:
    self.hidden_size_per_partition = divide(v_channels * config.num_attention_heads, world_size)
"""

ATTENTION_PATCH = Patch(
    name="mla",
    file=ATTENTION,
    why="multi-latent attention passes k_channels and v_channels, which DotProductAttention does not take",
    releases="0.10 - 0.19, main",
    mark=b"quantctl: multi-latent attention",
    edits=(
        Edit(Kind.PARAMETER, "DotProductAttention.__init__", "", "k_channels: int | None = None"),
        Edit(Kind.PARAMETER, "DotProductAttention.__init__", "", "v_channels: int | None = None"),
        Edit(
            Kind.AFTER,
            "DotProductAttention.__init__",
            "self.hidden_size_per_attention_head = divide(PROJECTION, config.num_attention_heads)",
            _HEAD_SIZES,
        ),
    ),
    required=False,
    needed=rb"(?s)\A(?!.*\bv_channels\b)",
)

_HAVE_TE = """
HAVE_TE = isinstance(TELinear, type)  # quantctl: without Transformer Engine it is no class
"""

WITHOUT_TE_PATCH = Patch(
    name="mla_without_te",
    file="megatron/core/transformer/multi_latent_attention.py",
    why="without Transformer Engine, isinstance(..., TELinear) raises TypeError in multi-latent attention",
    releases="0.14 - 0.16",
    mark=b"quantctl: without Transformer Engine",
    edits=(Edit(Kind.FIRST, "MultiLatentAttention.__init__", "", _HAVE_TE),),
    required=False,
    needed=rb"^    HAVE_TE = True$",
)

_IF_FUSED = """
if self.fused_norm_linear_impl is not None:
    ORIGINAL_STATEMENT
"""
_Q_PROJECTION = """
if self.fused_norm_linear_impl is not None:
    ORIGINAL_STATEMENT
else:
    # quantctl: local layers have no projection with a norm in it, and without a query LoRA no query norm
    linear_q_proj_cls = self.submodules.linear_q_proj or self.linear_impl
"""

Q_NORM_PATCH = Patch(
    name="mla_q_norm",
    file="megatron/core/transformer/mla_qk_norm_config.py",
    why="--qk-layernorm without --q-lora-rank is refused for local layers, whose spec names a query norm all the same",
    releases="0.19, main",
    mark=b"quantctl: local layers have no projection",
    edits=(
        Edit(
            Kind.REPLACE,
            "QKNormConfigResolver._reject_common_spec_conflicts",
            "self._raise_unused_q_norm()",
            _IF_FUSED,
        ),
        Edit(
            Kind.REPLACE,
            "QKNormConfigResolver._resolve_mla_qk_layernorm",
            'linear_q_proj_cls = self._mla_fused_linear_or_default(self.submodules.linear_q_proj, "linear_q_proj")',
            _Q_PROJECTION,
        ),
    ),
    required=False,
)
