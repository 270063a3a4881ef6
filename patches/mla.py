"""Multi-latent attention (DeepSeek-V2) with the local layers.

MLASelfAttention builds its core attention with `k_channels` and `v_channels`, the widths of a head's keys and values,
which differ there. Only Transformer Engine's attention takes them. In 0.14 - 0.16 without Transformer Engine, the
constructor stops even before that is used: HAVE_TE says whether the module of Megatron's TE layers can be imported,
which it always can, and TELinear is then no class.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

from quantctl.selectors import ATTENTION

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
        Edit(Kind.PARAMETER, "DotProductAttention.__init__", "", "k_channels: Optional[int] = None"),
        Edit(Kind.PARAMETER, "DotProductAttention.__init__", "", "v_channels: Optional[int] = None"),
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
