"""The quantized weight, kept from one micro batch of a step to the next: QUANTCTL_WEIGHT_REUSE=1 asks for it.

A weight changes once a step, and each micro batch needs it twice: along in-features in fprop, along out-features in
dgrad. It is quantized once, in one pass for both where their formats are equal, and both results are kept until it
changes. They cost the weight's bytes once (hifp8, whose two directions are one, and bwd=dequantized) or twice (all
else). It is off by default: a weight that somebody writes to unseen would be a run on stale numbers, and no speed is
worth that unasked.

Kept results are used only while all of this is unchanged: the weight's version (in-place changes that autograd sees),
its address (`weight.data = ...`; the old storage is held, so no other weight can get its address meanwhile), shape,
strides, dtype and both specs, and the number of optimizer steps in this process: Megatron writes its weights through
buffers that share their memory but not their version, always around a step of a torch optimizer. Whoever writes to a
weight in such a way outside of an optimizer calls `forget()`.
Never for stochastic rounding and random signs, whose every call is a new draw, for weights that are not trained
leaves, under torch.compile, or while a CUDA graph is captured, whose replays must quantize the weight of their time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import CPU
from quantctl.kernels.formats.quantize import quantize_dequantize_along, quantize_dequantize_both
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.draws import rounding_for, with_signs
from quantctl.kernels.products.grouped_quantize import quantize_stack
from quantctl.kernels.products.plan import LinearPlan, WeightSteps, weight_steps
from quantctl.spec import NONE, FormatSpec, Operand, ProductSpecs

VARIABLE = "QUANTCTL_WEIGHT_REUSE"


class _State(NamedTuple):
    """What must not have changed."""

    version: int
    address: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Kept(NamedTuple):
    state: tuple[_State, ...]
    """Of the weight, or of each weight of a stack."""
    specs: tuple[Operand, Operand]
    """Those of fprop and of dgrad."""
    storage: tuple[torch.UntypedStorage, ...]
    results: dict[WeightSteps, Tensor]


class _Given(NamedTuple):
    """What quantizations of one use draw from: the forward's, and the call of dgrad's random signs."""

    rng: Draw | None
    signs: int | None


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def forget(*_: object) -> None:
    """Drop everything that is kept: weights were, or will be, written in a way that torch does not see."""
    _kept.clear()


register_optimizer_step_pre_hook(forget)  # its memory is free for the step
register_optimizer_step_post_hook(forget)  # a closure may have run the model before the step's writes


def nbytes() -> int:
    """Bytes of the results that are kept now."""
    results = {id(t): t for kept in _kept.values() for t in kept.results.values()}
    return sum(t.numel() * t.element_size() for t in results.values())


def _enabled() -> bool:
    value = os.environ.get(VARIABLE, "0")
    if value not in ("0", "1"):
        raise QuantctlError(f"{VARIABLE}={value}: neither 0 nor 1", f"unset {VARIABLE}, or set it to 0 or 1")
    return value == "1"


def _reusable(weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and _enabled()
        and weight.is_leaf
        and weight.requires_grad
        and not (weight.is_cuda and torch.cuda.is_current_stream_capturing())
    )


Quantize = Callable[[Sequence[Tensor], FormatSpec, tuple[int, ...], tuple[Draw | None, ...]], list[Tensor]]


def _alone(
    weights: Sequence[Tensor], spec: FormatSpec, axes: tuple[int, ...], rngs: tuple[Draw | None, ...]
) -> list[Tensor]:
    return quantize_dequantize_along(weights[0], spec, axes, rngs)


def _through(
    weights: Sequence[Tensor], steps: WeightSteps, given: _Given, quantize: Quantize, results: dict[WeightSteps, Tensor]
) -> Tensor:
    """The weights behind all steps, of which `results` has some."""
    if steps not in results:
        *before, (spec, axis) = steps or ((FormatSpec(NONE), 1),)
        if before:
            begin = _through(weights, tuple(before), given, quantize, results)
            weights = begin.unbind(0) if begin.dim() == 3 else (begin,)
        draw = given.rng if axis == 1 else with_signs(rounding_for(spec), given.signs)
        (results[steps],) = quantize(weights, spec, (axis,), (draw,))
    return results[steps]


def _quantized(
    weights: Sequence[Tensor], specs: ProductSpecs, product: str, given: _Given, quantize: Quantize
) -> Tensor:
    of_both = specs.fprop[1], specs.dgrad[1]
    steps = weight_steps(*of_both, product)
    if not steps or any(spec.is_random for spec, _ in steps) or not all(map(_reusable, weights)):
        return _through(weights, steps, given, quantize, {})
    state = tuple(_State(w._version, w.data_ptr(), w.shape, w.stride(), w.dtype) for w in weights)
    kept = _kept.get(weights[0])
    if kept is None or kept.state != state or kept.specs != of_both:
        kept = _Kept(state, of_both, tuple(weight.untyped_storage() for weight in weights), {})
        _kept[weights[0]] = kept
    if not kept.results and of_both[0] == of_both[1]:
        both = weight_steps(*of_both, "fprop"), weight_steps(*of_both, "dgrad")
        kept.results.update(zip(both, quantize(weights, steps[0][0], (1, 0), (None, None)), strict=True))
    return _through(weights, steps, _Given(None, None), quantize, kept.results)


def quantized_weight(
    weight: Tensor, specs: ProductSpecs, product: str, rng: Draw | None = None, signs: int | None = None
) -> Tensor:
    """Weight [out, in] as product fprop (along in) or dgrad (along out, or as the forward had it) takes it.

    Not to be written to. rng: the draw of the forward's quantization. signs: the call of dgrad's random signs.
    """
    return _quantized((weight,), specs, product, _Given(rng, signs), _alone)


def weight_ahead(
    weight: Tensor, plan: LinearPlan, rng: Draw | None, dgrad_follows: bool, by: str
) -> tuple[Tensor, Tensor | None]:
    """quantized_weight for fprop and, where one read of the weight gives both and dgrad is to follow, for dgrad.

    by: the family that computes. On a CPU only: there a weight's bytes until the backward cost less than a second pass.
    """
    once = dgrad_follows and by == CPU and (plan.weight is not None or plan.is_weight_same)
    ahead = once and not _reusable(weight)
    if ahead and plan.weight is not None:
        return quantize_dequantize_both(weight, plan.weight, (None, None), by=CPU)
    w = quantized_weight(weight, plan.specs, "fprop", rng)
    return w, w if ahead else None


def quantized_stack(
    weights: Sequence[Tensor], specs: ProductSpecs, product: str, rng: Draw | None = None, signs: int | None = None
) -> Tensor:
    """The same for weights of equal shape, behind each other: [weights, out, in]."""
    return _quantized(weights, specs, product, _Given(rng, signs), quantize_stack)
