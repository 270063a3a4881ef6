"""The experts of a mixture computed together, where `linear` quantizes them.

Megatron's local layers know one way to compute experts, SequentialMLP: a loop in which every expert quantizes its
weights and its few tokens by itself. Quantized, all local experts go through two grouped products instead, equal to
the loop; what quantctl.kernels.grouped_experts does not cover takes the loop, which is quantized just as well. On the
`none` branch the loop is Megatron's, untouched.

From 0.12.1 on the routing weights are applied inside the experts, so there are two patches, of which a tree needs one.
"""

from __future__ import annotations

from quantctl.patches.patch import LAYERS, Edit, Kind, Patch

FILE = "megatron/core/transformer/moe/experts.py"

LEFT_OUT = (
    (FILE, "SequentialMLP.forward"),
    ("megatron/core/transformer/mlp.py", "MLP.forward"),
    (LAYERS, "ColumnParallelLinear.forward"),
    (LAYERS, "RowParallelLinear.forward"),
    (LAYERS, "LinearWithGradAccumulationAndAsyncCommunication.forward"),
    (LAYERS, "LinearWithGradAccumulationAndAsyncCommunication.backward"),
)

_TOGETHER = """
from megatron.core.tensor_parallel import layers
quant_type = getattr(layers, 'custom_quant_type_linear', 'none')
if quant_type != 'none':
    from quantctl.kernels import grouped_experts as quantctl_experts  # missing? pip install quantctl, or set 'none'

    together = quantctl_experts.forward(
        self, permuted_local_hidden_states, tokens_per_expert, {probs}, quant_type
    )
    if together is not None:
        return together
"""


def _patch(name: str, probs: str, releases: str, needed: bytes) -> Patch:
    return Patch(
        name=name,
        file=FILE,
        why="experts are quantized one by one, which keeps a GPU waiting",
        releases=releases,
        mark=f"tokens_per_expert, {probs}, quant_type".encode(),
        edits=(
            Edit(
                Kind.AFTER,
                "SequentialMLP.forward",
                "tokens_per_expert = tokens_per_expert.tolist()",
                _TOGETHER.format(probs=probs),
            ),
        ),
        required=False,
        needed=needed,
        leaves_out=LEFT_OUT,
    )


PATCHES = (
    _patch(
        "grouped_experts",
        "permuted_probs",
        "0.12.1 - 0.19, main",
        rb"^ +probs_list = torch\.split\(permuted_probs, tokens_per_expert\)$",
    ),
    _patch(
        "grouped_experts_without_probs",
        "None",
        "0.10 - 0.12.0",
        rb"(?s)\A(?!.*probs_list = torch\.split).*^class SequentialMLP\(",
    ),
)
