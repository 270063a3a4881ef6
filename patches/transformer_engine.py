"""The selectors in Transformer Engine's layers, which Megatron-LM builds unless --transformer-impl local is given.

Each of these layers calls te.pytorch's forward at one place, which computes the products out of the selectors' reach.
There Megatron's own patched functions compute them with the layer's parameters, where a selector asks for a format
(quantctl.kernels.transformer_engine). The selectors are those of the local layers' files; none stands here, and a
tree in which these are a fork's own is asked nothing. Core attention is handed to the local one in the same way, which
is built with it; `unfused` and `auto` ask for nothing that Transformer Engine's own attention does not do.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

FILE = "megatron/core/extensions/transformer_engine.py"

_LINEAR = """
from megatron.core.tensor_parallel import layers as quant_layers
quant_site = 'lm_head' if getattr(self, 'is_lm_head', False) else 'linear'
quant_type = getattr(quant_layers, 'custom_quant_type_' + quant_site, 'none')
out = None
if quant_type != 'none':
    from quantctl.kernels import transformer_engine as quantctl_te  # missing? pip install quantctl, or set 'none'

    out = quantctl_te.{call}, quant_type, quant_site)
if out is None:
    ORIGINAL_STATEMENT
"""

_BUILT = """
from megatron.core.transformer import dot_product_attention as quant_attention
quant_types = {
    getattr(quant_attention, 'custom_quant_type_qk', 'none'),
    getattr(quant_attention, 'custom_quant_type_pv', 'none'),
}
if quant_types != {'none'} or getattr(quant_attention, 'custom_attention_impl', 'unfused') == 'fused':
    from quantctl.kernels import transformer_engine as quantctl_te  # missing? pip install quantctl, or set 'none'

    quantctl_te.prepare_attention(
        self,
        quant_attention,
        layer_number=layer_number,
        attn_mask_type=attn_mask_type,
        attention_type=attention_type,
        attention_dropout=attention_dropout,
        softmax_scale=softmax_scale,
        k_channels=k_channels,
        v_channels=v_channels,
    )
"""

_ATTENDED = """
if 'quantctl_local' in self.__dict__:
    from quantctl.kernels import transformer_engine as quantctl_te

    quant_context = quantctl_te.attention(
        self,
        query,
        key,
        value,
        attention_mask,
        attn_mask_type,
        attention_bias,
        packed_seq_params,
    )
    if quant_context is not None:
        return quant_context

"""


def _products(name: str, owner: str, function: str, arguments: str, releases: str, why: str) -> Patch:
    call = f"{function}(self, {arguments}"
    return Patch(
        name=name,
        file=FILE,
        why=why,
        releases=releases,
        mark=f"quantctl_te.{call}".encode(),
        edits=(
            Edit(
                Kind.REPLACE,
                f"{owner}.forward",
                f"out = super().forward({arguments}, is_first_microbatch=FIRST)",
                _LINEAR.format(call=call),
            ),
        ),
        required=False,
        needed=rb"^ *class " + owner.encode() + rb"\(",
        together=("linear", "lm_head"),
    )


LINEAR_PATCH = _products(
    "te_linear",
    "TELinear",
    "linear",
    "x",
    "0.10 - 0.19, main",
    "Transformer Engine's linear layers compute their products out of the selectors' reach",
)
NORM_PATCH = _products(
    "te_layernorm_linear",
    "TELayerNormColumnParallelLinear",
    "layernorm_linear",
    "x",
    "0.10 - 0.19, main",
    "Transformer Engine's linear layers with a norm in them do so too",
)
GROUPED_PATCH = _products(
    "te_grouped_linear",
    "TEGroupedLinear",
    "grouped_linear",
    "x, m_splits",
    "0.10 - 0.19, main",
    "Transformer Engine's grouped experts do so too",
)
ATTENTION_PATCH = Patch(
    name="te_attention",
    file=FILE,
    why="Transformer Engine's attention computes its products out of the selectors' reach",
    releases="0.10 - 0.19, main",
    mark=b"quantctl_te.prepare_attention",
    edits=(
        Edit(Kind.LAST, "TEDotProductAttention.__init__", "", _BUILT),
        Edit(Kind.FIRST, "TEDotProductAttention.forward", "", _ATTENDED),
    ),
    required=False,
    needed=rb"^class TEDotProductAttention\(",
    together=("attention", "fused_attention"),
)
PATCHES = (LINEAR_PATCH, NORM_PATCH, GROUPED_PATCH, ATTENTION_PATCH)
