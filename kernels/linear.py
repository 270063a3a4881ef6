"""Where patched Megatron files find the linear products.

The name stands in trees that people patched, so it stays.
"""

from quantctl.kernels.products.linear import (
    check_head,
    dgrad,
    fprop,
    fprop_operands,
    quantized_linear,
    saved,
    wgrad_operands,
)

__all__ = ["check_head", "dgrad", "fprop", "fprop_operands", "quantized_linear", "saved", "wgrad_operands"]
