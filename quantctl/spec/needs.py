"""Options of a format that say something only beside others of it."""

from __future__ import annotations

from typing import TypeVar

from quantctl.errors import QuantctlError, quoted

Spec = TypeVar("Spec")

SIZES = ("16", "32", "64", "128")
"""Of a Hadamard transform."""

NEEDS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    # an option with one of these values says something only beside another option with one of those
    ("signs", ("fixed", "random"), "hadamard", SIZES),
    ("signs", ("fixed",), "hadamard", ("16",)),
    ("hadamard_out", ("fp32",), "hadamard", SIZES),
    ("headroom", ("3/4", "16/17"), "round", ("stochastic",)),
    ("headroom", ("3/4",), "scale", ("floor",)),
    ("scale", ("4over6", "4over6_mse"), "round", ("nearest",)),
    ("extent", ("row",), "block", ("1x16",)),
    ("target", ("224",), "scale", ("fp32",)),
    # the forward's values would be those of its transform
    ("hadamard", SIZES, "bwd", ("quantized", "high_precision")),
)


def fitting(text: str, spec: Spec, what: str = "") -> Spec:
    """The spec. Raises QuantctlError, which says `what` of the literal it is, where two options do not go together."""
    for key, values, other, wanted in NEEDS:
        value, said = getattr(spec, key), getattr(spec, other)
        if value in values and said is not None and said not in wanted:
            raise QuantctlError(
                f"{quoted(text)}{what}: {key}={value} does not go with {other}={said}",
                f"it wants {' or '.join(f'{other}={one}' for one in wanted)}, or leave {key} out",
            )
    return spec
