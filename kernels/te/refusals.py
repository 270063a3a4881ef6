"""What Transformer Engine's layers do and the products in their place do not: refused in words, before the first step.

Where the model is a GPTModel, once it is built; in other models by each layer, before its first product.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from quantctl.errors import QuantctlError
from quantctl.kernels.measure.coverage import EXTENSION
from quantctl.kernels.te import rulers
from quantctl.kernels.te.rulers import asked, by_precision_file, own_recipe
from quantctl.spec import NONE, literal

_FUSED_MLP = "TEFusedMLP"
_MARK = "quantctl_te"
"""A name that patched methods have."""


class Reason(NamedTuple):
    """Why a layer cannot be ruled by a selector, and what to leave out of the command."""

    why: str
    way_out: str


def _own_recipe(module: Any) -> Reason | None:
    """Transformer Engine quantizes the same products by a recipe of its own."""
    if recipe := own_recipe(module.config):
        return Reason(f"{recipe} has Transformer Engine quantize the same products", f"drop {recipe.partition(' ')[0]}")
    if by_precision_file(module):
        return Reason(
            "Megatron's per-module precision file speaks of the same module",
            "take the module out of --te-precision-config-file, or except it in the selector with a rule",
        )
    fp8 = sys.modules.get("transformer_engine.pytorch.fp8")
    if fp8 is not None and fp8.FP8GlobalStateManager.is_fp8_enabled():
        return Reason("it runs under Transformer Engine's autocast, which quantizes the same products", "drop that")
    return None


def _weights_of(module: Any) -> Iterator[Any]:
    return (parameter for name, parameter in module.named_parameters(recurse=False) if name.startswith("weight"))


def _quantized_weights(module: Any) -> Reason | None:
    if any(type(weight).__module__.startswith("transformer_engine.") for weight in _weights_of(module)):
        return Reason("its weights are kept in Transformer Engine's FP8", "drop --fp8-param-gather")
    return None


def _distributed_weights(module: Any) -> Reason | None:
    if any((getattr(weight, "gtp_remat_size", None) or 1) > 1 for weight in _weights_of(module)):
        return Reason("its weights are gathered for each product (GTP)", "drop the GTP rematerialization")
    return None


def _reads_none(module: Any) -> Reason | None:
    """The class's file was not patched: it is a fork's, and the patch does not fit it."""
    forwards = (vars(base).get("forward") for base in type(module).__mro__)
    codes = (getattr(inspect.unwrap(forward), "__code__", None) for forward in forwards if forward is not None)
    if any(code is not None and _MARK in code.co_varnames for code in codes):
        return None
    return Reason("its forward reads no selector", "quantctl patch --list says which patch does not fit this tree")


def _option(name: str, flag: str, why: str) -> Callable[[Any], Reason | None]:
    def check(module: Any) -> Reason | None:
        return Reason(f"{flag} {why}", f"drop {flag}") if getattr(module.config, name, None) else None

    return check


def _unfused_accumulation(module: Any) -> Reason | None:
    from megatron.core.tensor_parallel import layers

    if module.fuse_wgrad_accumulation and not getattr(layers, "_grad_accum_fusion_available", True):
        return Reason(
            "Apex's fused_weight_gradient_mlp_cuda, which adds weight gradients to main_grad, is not installed",
            "add --no-gradient-accumulation-fusion, or install Apex with its CUDA extensions",
        )
    return None


LINEAR: tuple[Callable[[Any], Reason | None], ...] = (
    _reads_none,
    _own_recipe,
    _quantized_weights,
    _distributed_weights,
    _option("delay_wgrad_compute", "--delay-wgrad-compute", "computes weight gradients outside of the layer"),
    _option("tp_comm_overlap", "--tp-comm-overlap", "cuts the products into pieces that Transformer Engine computes"),
    _option("symmetric_ar_type", "--symmetric-ar-type", "has Transformer Engine reduce the products' results"),
    _unfused_accumulation,
)
"""By each linear layer."""

_CHECKED = "quantctl_checked"
"""In what a module holds, once its options have been looked at."""


def refuse(module: Any, site: str, quant_type: str, name: str = "") -> None:
    """Raise QuantctlError if a selector that is not none and this linear layer exclude each other.

    Options are looked at once; what may change, Transformer Engine's autocast, in each call.
    """
    checks = (_own_recipe,) if _CHECKED in vars(module) else LINEAR
    for check in checks:
        if reason := check(module):
            raise QuantctlError(
                f"{site}={quant_type}: {name or type(module).__name__}: {reason.why}",
                f"{reason.way_out}; or set {site} to none",
            )
    vars(module)[_CHECKED] = True


def refuse_model(
    model: Any, values: Mapping[str, str], modules: Mapping[str, Any], literals: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise QuantctlError if a model that has just been built has a layer of Transformer Engine that no selector rules
    while one asks for it.

    values: the selectors' by site; modules: by name, those that compute products; literals: what is said of each.
    """
    linear = _kinds("TELinear", "TELayerNormColumnParallelLinear", "TEGroupedLinear")
    theirs = {name: module for name, module in modules.items() if isinstance(module, linear)}
    rulers.say(model.config, theirs, literals)
    for name, module in theirs.items():
        if asked(literals[name]):
            site = next(iter(literals[name]))
            refuse(module, site, values[site], name)
    if linear and not literal(values.get("linear", NONE), "linear").is_none:
        _refuse_bypassing(model, values["linear"], (*linear, *_kinds("TEDotProductAttention")))


def _kinds(*names: str) -> tuple[type, ...]:
    """These of Megatron's classes, which are none where Transformer Engine is not installed."""
    found = (getattr(sys.modules[EXTENSION], name, None) for name in names)
    return tuple(kind for kind in found if isinstance(kind, type))


def _refuse_bypassing(model: Any, quant_type: str, known: tuple[type, ...]) -> None:
    """Raise QuantctlError for modules that compute linear products where no selector is."""
    base = getattr(sys.modules.get("transformer_engine.pytorch.module.base"), "TransformerEngineBaseModule", None)
    for name, module in model.named_modules():
        fused = any(kind.__name__ == _FUSED_MLP for kind in type(module).__mro__)
        if fused or (base is not None and isinstance(module, base) and not isinstance(module, known)):
            fix = "drop --use-transformer-engine-op-fuser" if fused else "build the model of Megatron's own TE layers"
            raise QuantctlError(
                f"linear={quant_type}: {name} is a {type(module).__name__}, whose products Transformer Engine computes "
                "in one piece",
                f"{fix}; or set linear to none",
            )
