"""Calls into megatron-core whose parameters differ from release to release.

A parameter that a release lacks can be left out where that release does without it what was asked for. Where it does
something else, the call is refused by name: a TypeError out of Megatron tells nobody which release would do.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from quantctl.errors import QuantctlError


def _refusal(what: str) -> QuantctlError:
    import megatron.core

    version = getattr(megatron.core, "__version__", "of an unknown release")
    return QuantctlError(f"megatron-core {version} {what}", "use a release or a fork that has it, or another model")


def keywords(
    function: Callable[..., Any],
    wanted: Mapping[str, Any],
    without: Mapping[str, Any],
    left_out: list[str] | None = None,
) -> dict[str, Any]:
    """Those of `wanted` that `function` takes.

    `without` says what a release does that lacks a parameter: other values are refused with QuantctlError, but with a
    list `left_out` those of DETAILS are noted there.
    """
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(wanted)
    for name, value in wanted.items():
        if name in parameters or (name in without and without[name] == value):
            continue
        if left_out is None or name not in DETAILS:
            raise _refusal(f"cannot do {name}={value!r}: {function.__qualname__} takes no {name}")
        left_out.append(f"{name}={value!r}")
    return {name: value for name, value in wanted.items() if name in parameters}


DETAILS = frozenset({"rope_scaling", "rope_scaling_factor", "moe_router_dtype", "moe_router_pre_softmax"})
"""Parameters without which a model has the same layers."""


def require(module: Any, name: str, what: str) -> Any:
    """`module.name`. Raises QuantctlError if this release has no such thing; `what` says it for people."""
    if not hasattr(module, name):
        raise _refusal(f"has no {what}: {module.__name__} has no {name}")
    return getattr(module, name)


def normalization(wanted: str, left_out: list[str] | None = None) -> str:
    """The normalization to build: up to 0.9 the local layers have LayerNorm only, others as in `keywords`."""
    if wanted == "LayerNorm" or importlib.util.find_spec("megatron.core.transformer.torch_norm") is not None:
        return wanted
    if left_out is None:
        raise _refusal(f"has no {wanted} among its local layers: there is no megatron/core/transformer/torch_norm.py")
    left_out.append(f"normalization={wanted!r}")
    return "LayerNorm"
