"""Which family of kernels computes; all give the same bits.

Triton's on a CUDA device, those that numba compiles on a CPU where numba is, the torch reference everywhere else.
QUANTCTL_KERNELS=reference, cpu or triton forces one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.tables import has_values, is_fake
from quantctl.spec import FORMATS, FormatSpec

VARIABLE = "QUANTCTL_KERNELS"
AUTO, REFERENCE, CPU, TRITON = "auto", "reference", "cpu", "triton"
FLASH = "flash"
"""What is computed beside single tensors: probabilities while attention makes them."""
CHOICES = (AUTO, REFERENCE, CPU, TRITON)
HAS_TRITON = find_spec("triton") is not None
HAS_NUMBA = find_spec("numba") is not None

COMPUTES: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    CPU: {name: {} for name in FORMATS},
    TRITON: {name: {} for name in FORMATS},
    # of blocks that no tile of 32 keys holds, fp8's of 128 and hifp4's of 64, the unfused flow makes all first
    FLASH: {
        **{name: {} for name in ("mxfp8", "mxfp6", "mxfp4", "nvfp4", "int8", "hifp8")},
        "fp8": {"block": ("tensor", "row")},
    },
}
"""Family -> format -> option -> the values that it has kernels for; of an option that is not named, all.

What is not here the reference computes. Triton's kernels have Hadamard transforms in their pass; in front of the
others they stand as kernels of their own, and none is in fused attention.
"""


def supports(by: str, spec: FormatSpec) -> bool:
    """Whether a family has kernels for `spec`."""
    options = {} if by == REFERENCE else COMPUTES[by].get(spec.format)
    if not options:  # all values of all options, or no such format
        return options is not None
    return all(getattr(spec, key) is None or getattr(spec, key) in values for key, values in options.items())


computed: set[str] = set()
"""The families that were chosen for tensors of this process."""


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@lru_cache(maxsize=1)
def _unloadable() -> str | None:
    """Why numba cannot be loaded, which is said once, or None. Loads it."""
    try:
        import numba  # noqa: F401
    except Exception as error:
        reason = f"numba cannot be loaded ({error})"
        with contextlib.suppress(OSError):
            print(f"quantctl: {reason}: the slower torch reference computes", file=sys.stderr, flush=True)
        return reason
    return None


def _why_not_numba() -> str | None:
    """Installed is not enough: a release of numba wants certain ones of NumPy and Python."""
    if not HAS_NUMBA:
        return "numba is not installed"
    # under torch.compile what is asked is which graph to make; whoever runs it asks again
    return None if torch.compiler.is_compiling() else _unloadable()


def _automatic(kind: str) -> str:
    """For a device of this kind."""
    if kind == "cpu":
        return CPU if _why_not_numba() is None else REFERENCE
    return TRITON if kind == "cuda" and HAS_TRITON else REFERENCE


def _why_not(choice: str, kind: str) -> tuple[str, str] | None:
    """Why a forced family cannot compute on a device of this kind, and what to do."""
    unset = f"unset {VARIABLE}"
    if choice == TRITON and not HAS_TRITON:
        return "Triton is not installed", f"pip install triton, or {unset}"
    if choice == TRITON and kind != "cuda" and not interpreted():
        return (
            f"there is a tensor on {kind}, where Triton has no compiler",
            f"{unset}, or set TRITON_INTERPRET=1 before Python starts to run the kernels in the interpreter",
        )
    if choice == CPU and kind != "cpu":
        return f"there is a tensor on {kind}", unset
    if choice == CPU and (reason := _why_not_numba()) is not None:
        return reason, f"pip install 'quantctl[cpu]', or {unset}"
    return None


def family(device: torch.device) -> str:
    """The one of CHOICES but `auto` that computes on `device`.

    Raises QuantctlError for an unknown choice, and for one that is forced where it cannot run.
    """
    return _family(device.type)


def _family(kind: str) -> str:
    choice = os.environ.get(VARIABLE) or AUTO
    if choice == AUTO:
        return _automatic(kind)
    if choice not in CHOICES:
        raise QuantctlError(f"{VARIABLE}={choice}: no such kernels", f"choose from: {', '.join(CHOICES)}, or unset it")
    if kind == "meta":
        return REFERENCE
    if reason := _why_not(choice, kind):
        raise QuantctlError(f"{VARIABLE}={choice}: {reason[0]}", reason[1])
    return choice


def family_of(x: Tensor, spec: FormatSpec | None = None) -> str:
    """family of x's device, where it has kernels for `spec`; a tensor without values, which no kernel can read, goes
    through the reference, as everything does that the family has no kernels for."""
    if is_fake(x):
        return REFERENCE
    kind = "cpu" if x.is_cpu else x.device.type  # a device is an object, and costs as much as all the rest
    if kind == "meta":
        return REFERENCE
    found = _family(kind)
    if spec is not None and not supports(found, spec):
        found = REFERENCE
    if torch.compiler.is_compiling():
        return found
    if found == CPU and not has_values(x):
        found = REFERENCE  # a tensor of torch.func has values, but none that Python may look at
    computed.add(found)
    return found
