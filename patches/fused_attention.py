"""Selector `attention`: Megatron's own flow, step by step, or the whole of it in one fused kernel.

The choice stands in front of everything else in the method, where keys and values are not yet repeated for grouped
queries. Calls that the fused kernels do not take run through the stock flow below, whose products obey `qk` and `pv`.

It is a patch of its own, so that trees patched before there was this selector get it with their next `set` or `patch`.
"""

from __future__ import annotations

from quantctl.patches.patch import ATTENTION, Edit, Kind, Patch

_HEADER = """
# quantctl: how attention is computed; 'unfused' is the stock flow, 'auto' is 'fused' where that can be.
# Change it with `quantctl set --attention auto`, or here; `quantctl check` shows it.
custom_attention_impl = 'unfused'
"""

_CHOICE = """
if custom_attention_impl != 'unfused':
    from quantctl.kernels import attention_dispatch  # missing? pip install quantctl, or set 'unfused'

    fused_context = attention_dispatch.fused_context(
        self,
        query,
        key,
        value,
        attention_mask,
        attention_bias=attention_bias,
        packed_seq_params=packed_seq_params,
        impl=custom_attention_impl,
        qk=custom_quant_type_qk,
        pv=custom_quant_type_pv,
    )
    if fused_context is not None:
        return fused_context

"""

PATCH = Patch(
    name="fused_attention",
    file=ATTENTION,
    why="selector for how attention is computed; the stock flow is an order of magnitude slower than a fused kernel",
    releases="0.10 - 0.19, main",
    header=_HEADER,
    mark=b"custom_attention_impl",
    edits=(Edit(Kind.FIRST, "DotProductAttention.forward", "", _CHOICE),),
    leaves_out=(
        (ATTENTION, "DotProductAttention.forward"),
        ("megatron/core/fusions/fused_softmax.py", "FusedScaleMaskSoftmax"),
        ("megatron/core/transformer/utils.py", "attention_mask_func"),
    ),
    roles=("attention",),
    together=("attention",),
)
