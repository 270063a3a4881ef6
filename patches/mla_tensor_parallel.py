"""Multi-latent attention (DeepSeek-V2) under tensor parallelism with the local layers.

The keys' rotary part is one for all heads. Local layers split the projection that makes it by columns, so its parts are
gathered, and each tensor parallel rank applies it to heads of its own. The gradient is the sum over these ranks, but
the backward of gathering a split tensor takes a rank's own slice and sums nothing: the projection's last
qk-pos-emb-head-dim rows got the gradient of a part of the heads. (Transformer Engine's projection is not split, and
gathers over the sequence, which sums.)
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

_SUMMED = """
if kv_combined.requires_grad:
    # quantctl: every rank's heads use the keys' rotary part, so its gradient is the sum over ranks
    from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region

    def sum_rotary_part(gradient):
        compressed, rotary_part = gradient.tensor_split([self.config.kv_lora_rank], dim=-1)
        # up to 0.18 Megatron reduces a copy of what is not contiguous, and drops it
        rotary_part = rotary_part.clone(memory_format=torch.contiguous_format)
        rotary_part = reduce_from_tensor_model_parallel_region(rotary_part)
        return torch.cat((compressed, rotary_part), dim=-1)

    kv_combined.register_hook(sum_rotary_part)
"""

PATCH = Patch(
    name="mla_tensor_parallel",
    file="megatron/core/transformer/multi_latent_attention.py",
    why="with tensor parallelism, local layers lose parts of the gradient of the keys' rotary projection",
    releases="0.11 - 0.19, main",
    mark=b"quantctl: every rank's heads use the keys' rotary part",
    edits=(
        Edit(
            Kind.AFTER,
            "MLASelfAttention.get_query_key_value_tensors",
            "kv_combined = gather_from_tensor_model_parallel_region(kv_combined)",
            _SUMMED,
        ),
    ),
    required=False,
    needed=rb"kv_combined = gather_from_tensor_model_parallel_region\(kv_combined\)",
)
