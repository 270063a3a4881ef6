"""Every spec that a family has kernels for, by the table that says so."""

from __future__ import annotations

import itertools

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import COMPUTES
from quantctl.spec import FORMATS, canonical, parse

_IN_FRONT = ("hadamard", "signs", "hadamard_out", "bwd")
"""Options that are no matter of a kernel."""


def _is_spec(text: str) -> bool:
    try:
        canonical(text)
    except QuantctlError:
        return False
    return True


def differing(text: str) -> set[str]:
    """The options of a spec that are not its format's defaults."""
    spec = parse(text)
    usual = parse(spec.format).options()
    return {key for key, value in spec.options().items() if value != usual[key]}


def every(family: str) -> list[str]:
    """Each combination of options, their defaults written out."""
    found = []
    for name, computed in COMPUTES[family].items():
        keys = [key for key in FORMATS[name] if key not in _IN_FRONT]
        for values in itertools.product(*(computed.get(key, FORMATS[name][key]) for key in keys)):
            found.append(f"{name}:" + ",".join(f"{key}={value}" for key, value in zip(keys, values, strict=True)))
    return list(filter(_is_spec, found))
