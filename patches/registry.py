"""All patches, in the order they are applied. A new patch is a module here and a line below."""

from quantctl.patches import (
    attention,
    fused_attention,
    grouped_experts,
    linear,
    lm_head,
    mla,
    mla_tensor_parallel,
    moe_without_te,
    mtp_without_te,
    names,
    rmsnorm_sp,
    rope_scaling_factor,
    transformer_engine,
)
from quantctl.patches.patch import Patch

PATCHES: tuple[Patch, ...] = (
    linear.PATCH,
    lm_head.PATCH,
    names.PATCH,
    attention.PATCH,
    fused_attention.PATCH,
    mla.ATTENTION_PATCH,
    mla.WITHOUT_TE_PATCH,
    mla.Q_NORM_PATCH,
    mla_tensor_parallel.PATCH,
    rmsnorm_sp.PATCH,
    moe_without_te.PATCH,
    mtp_without_te.PATCH,
    *grouped_experts.PATCHES,
    *rope_scaling_factor.PATCHES,
    *transformer_engine.PATCHES,
)
