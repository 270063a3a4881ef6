"""Where patched Megatron files find what computes in the place of Transformer Engine's layers.

The name stands in trees that people patched, so it stays.
"""

from quantctl.kernels.te.attention import attention, prepare_attention
from quantctl.kernels.te.grouped import grouped_linear
from quantctl.kernels.te.linear import layernorm_linear, linear

__all__ = ["attention", "grouped_linear", "layernorm_linear", "linear", "prepare_attention"]
