"""All patches, in the order they are applied. A new patch is a module here and a line below."""

from quantctl.patches import attention, linear, lm_head
from quantctl.patches.patch import Patch

PATCHES: tuple[Patch, ...] = (linear.PATCH, lm_head.PATCH, attention.PATCH)
