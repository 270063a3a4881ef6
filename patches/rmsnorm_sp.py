"""Sequence parallelism with PyTorch's norms, the only ones that the local layers have for RMSNorm.

With sequence parallelism each tensor parallel rank normalizes its part of the sequence, so a norm's gradient is a part
of the sum. Megatron adds the parts up in finalize_model_grads for parameters that carry `sequence_parallel = True`, as
those of its own norms do.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Either, Kind, Patch

_ALLOWED = """
assert (
    config.normalization in ('LayerNorm', 'RMSNorm') or not config.sequence_parallel
), MESSAGE
"""

_MARKED = """
for parameter in NORM.parameters():
    # quantctl: finalize_model_grads sums the gradients of marked parameters over the tensor parallel ranks
    parameter.sequence_parallel = config.sequence_parallel
"""

_RETURNED = f"""
norm = norm_cls(normalized_shape=hidden_size, eps=eps)
{_MARKED.strip().replace("NORM", "norm")}
return norm
"""

_NEW = "WrappedTorchNorm.__new__"

PATCH = Patch(
    name="rmsnorm_sp",
    file="megatron/core/transformer/torch_norm.py",
    why="--sequence-parallel with RMSNorm stops at an assert of WrappedTorchNorm",
    releases="0.10 - 0.19, main",
    mark=b"parameter.sequence_parallel",
    edits=(
        Edit(Kind.REPLACE, _NEW, "assert not config.sequence_parallel, MESSAGE", _ALLOWED),
        Either(
            (
                Edit(Kind.REPLACE, _NEW, "return norm_cls(normalized_shape=hidden_size, eps=eps)", _RETURNED),
                Edit(Kind.AFTER, _NEW, "NORM = norm_cls(normalized_shape=hidden_size, eps=eps)", _MARKED),
            )
        ),
    ),
    required=False,
    needed=rb"^        assert not config\.sequence_parallel",
)
