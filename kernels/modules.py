"""Where patched Megatron models find what names their modules.

The name stands in trees that people patched, so it stays.
"""

from quantctl.kernels.products.modules import name

__all__ = ["name"]
