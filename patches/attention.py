"""Selectors `qk` and `pv`: the two products of Megatron's unfused attention.

Their gradients are plain autograd in stock Megatron; on the quantized branch they belong to the autograd functions of
quantctl.kernels.attention.
"""

from __future__ import annotations

from quantctl.patches.patch import ATTENTION, Edit, Kind, Patch

_HEADER = """
# quantctl: number formats of the attention products; 'none' is the stock product.
# Change them with `quantctl set --qk SPEC --pv SPEC`, or here; `quantctl check` shows them.
custom_quant_type_qk = 'none'
custom_quant_type_pv = 'none'
"""

_QK = """
if custom_quant_type_qk == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import attention as quantctl_attention  # missing? pip install quantctl, or set 'none'

    matmul_result = quantctl_attention.qk(
        Q,
        KT,
        SCALE,
        custom_quant_type_qk,
        getattr(self, 'quant_layer', None),
    )
"""
_FORMER_QK = """
if custom_quant_type_qk == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import attention as quantctl_attention  # missing? pip install quantctl, or set 'none'

    matmul_result = quantctl_attention.qk(
        Q,
        KT,
        SCALE,
        custom_quant_type_qk,
    )
"""

_PV = """
if custom_quant_type_pv == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import attention as quantctl_attention  # missing? pip install quantctl, or set 'none'

    context = quantctl_attention.pv(P, V, custom_quant_type_pv, getattr(self, 'quant_layer', None))
"""
_FORMER_PV = """
if custom_quant_type_pv == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import attention as quantctl_attention  # missing? pip install quantctl, or set 'none'

    context = quantctl_attention.pv(P, V, custom_quant_type_pv)
"""
_FORWARD = "DotProductAttention.forward"
_STOCK_QK = "matmul_result = torch.baddbmm(BUFFER, Q, KT, beta=0.0, alpha=SCALE)"
_STOCK_PV = "context = torch.bmm(P, V)"

PATCH = Patch(
    name="attention",
    file=ATTENTION,
    why="selectors for the products Q K^T and P V",
    releases="0.10 - 0.19, main",
    header=_HEADER,
    mark=b"custom_quant_type_qk",
    roles=("qk", "pv"),
    edition=b"'quant_layer'",
    edits=(
        Edit(Kind.REPLACE, _FORWARD, _STOCK_QK, _QK),
        Edit(Kind.REPLACE, _FORWARD, _STOCK_PV, _PV),
        Edit(Kind.PRODUCTS, _FORWARD, "", "", count=(2,)),
    ),
    former=(
        Edit(Kind.REPLACE, _FORWARD, _STOCK_QK, _FORMER_QK),
        Edit(Kind.REPLACE, _FORWARD, _STOCK_PV, _FORMER_PV),
    ),
)
