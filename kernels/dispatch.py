"""Which implementation computes: the Triton kernels on a CUDA device, the torch reference everywhere else.

QUANTCTL_KERNELS=reference, triton or cpu (compiled by numba) forces one. All give the same bits.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.tables import has_values, is_fake

VARIABLE = "QUANTCTL_KERNELS"
CHOICES = ("reference", "triton", "cpu")
HAS_TRITON = find_spec("triton") is not None
HAS_NUMBA = find_spec("numba") is not None


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
    if choice != "triton":
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


def use_cpu(device: torch.device) -> bool:
    """Whether tensors on `device` go through the kernels compiled for a CPU.

    Raises QuantctlError if they are forced where they cannot run.
    """
    if os.environ.get(VARIABLE, "") != "cpu" or device.type == "meta":
        return False
    if not HAS_NUMBA:
        raise QuantctlError(f"{VARIABLE}=cpu: numba is not installed", f"pip install numba, or unset {VARIABLE}")
    if device.type != "cpu":
        raise QuantctlError(f"{VARIABLE}=cpu: there is a tensor on {device.type}", f"unset {VARIABLE}")
    return True


def in_cpu_kernels(x: Tensor) -> bool:
    """use_cpu of x's device; what Python cannot see the values of, and a compiled graph, go through the reference."""
    return not torch.compiler.is_compiling() and has_values(x) and use_cpu(x.device)
