"""Where patched Megatron files find the products of attention.

The name stands in trees that people patched, so it stays.
"""

from quantctl.kernels.products.attention import pv, qk

__all__ = ["pv", "qk"]
