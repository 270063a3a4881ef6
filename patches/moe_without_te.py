"""Mixture of experts without Transformer Engine.

The router of 0.13 - 0.16 asks `te_general_gemm is not None`, but the name is only bound by an import that fails without
Transformer Engine. Bound to None above that import, it says what the router means to ask.
"""

from __future__ import annotations

from quantctl.patches.patch import Patch

_HEADER = """
# quantctl: the import below binds it only where Transformer Engine is installed
te_general_gemm = None
"""

PATCH = Patch(
    name="moe_without_te",
    file="megatron/core/transformer/moe/moe_utils.py",
    why="without Transformer Engine the router stops at a NameError, te_general_gemm",
    releases="0.13 - 0.16",
    mark=b"te_general_gemm = None",
    edits=(),
    header=_HEADER,
    required=False,
    needed=rb"^try:\n    import transformer_engine(?s:.)*te_general_gemm,",
)
