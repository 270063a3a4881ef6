"""Which implementation computes: the Triton kernels on a CUDA device, the torch reference everywhere else.

QUANTCTL_KERNELS=reference or triton forces one. Both give the same bits.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.tables import is_fake

VARIABLE = "QUANTCTL_KERNELS"
CHOICES = ("reference", "triton")
HAS_TRITON = find_spec("triton") is not None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def use_triton(device: torch.device) -> bool:
    """Whether tensors on `device` go through the Triton kernels.

    Raises QuantctlError for an unknown choice, and if triton is forced where it cannot run.
    """
    choice = os.environ.get(VARIABLE, "")
    if device.type == "meta":
        return False
    if choice == "":
        return device.type == "cuda" and HAS_TRITON
    if choice not in CHOICES:
        raise QuantctlError(f"{VARIABLE}={choice}: no such kernels", f"choose from: {', '.join(CHOICES)}, or unset it")
    if choice == "reference":
        return False
    if not HAS_TRITON:
        raise QuantctlError(f"{VARIABLE}=triton: Triton is not installed", f"pip install triton, or unset {VARIABLE}")
    if device.type != "cuda" and not _interpreted():
        raise QuantctlError(
            f"{VARIABLE}=triton: there is a tensor on {device.type}, where Triton has no compiler",
            f"unset {VARIABLE}, or set TRITON_INTERPRET=1 before Python starts to run the kernels in the interpreter",
        )
    return True


def in_triton(x: Tensor) -> bool:
    """use_triton of x's device; a tensor without values, which no kernel can read, goes through the reference."""
    return not is_fake(x) and use_triton(x.device)
