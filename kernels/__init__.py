"""The number formats and the products that patched Megatron sources call: the torch reference and its twins.

Rooms: formats, products, triton, cpu, measure. Beside them what all share, and the names that patched trees import.
Knows nothing of trees, runs or commands. `quantize_dequantize`, the entry to all formats, comes when it is asked for.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["quantize_dequantize"]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'quantctl.kernels' has no attribute {name!r}")
    from quantctl.kernels.formats.quantize import quantize_dequantize

    return quantize_dequantize
