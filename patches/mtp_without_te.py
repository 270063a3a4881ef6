"""Multi-token prediction without Transformer Engine.

Behind 0.19 every MTP layer asks whether its projection is one of the inference layers, which derive from Transformer
Engine's and are no classes where that is not installed.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

_NO_CLASS = """
if not isinstance(InferenceColumnParallelLinear, type):
    # quantctl: without Transformer Engine it is no class, and no layer is one
    return False
"""

PATCH = Patch(
    name="mtp_without_te",
    file="megatron/core/tensor_parallel/inference_layers.py",
    why="without Transformer Engine, isinstance(..., InferenceColumnParallelLinear) raises TypeError in MTP layers",
    releases="main",
    mark=b"quantctl: without Transformer Engine",
    edits=(Edit(Kind.FIRST, "is_inference_column_parallel_linear", "", _NO_CLASS),),
    required=False,
    needed=rb"^def is_inference_column_parallel_linear",
)
