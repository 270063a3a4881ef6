"""The quantized weight, kept from one micro batch of a step to the next: QUANTCTL_WEIGHT_REUSE=1 asks for it.

A weight changes once a step, and each micro batch needs it twice: along in-features in fprop, along out-features in
dgrad. It is quantized once, in one pass for both, and both results are kept until it changes. They cost the weight's
bytes once (hifp8, whose two directions are one, and bwd=dequantized) or twice (all else). It is off by default: a
weight that somebody writes to unseen would be a run on stale numbers, and no speed is worth that unasked.

Kept results are used only while all of this is unchanged: the weight's version (in-place changes that autograd sees),
its address (`weight.data = ...`; the old storage is held, so no other weight can get its address meanwhile), shape,
strides, dtype and spec, and the number of optimizer steps in this process: Megatron writes its weights through
buffers that share their memory but not their version, always around a step of a torch optimizer. Whoever writes to a
weight in such a way outside of an optimizer calls `forget()`.
Never for stochastic rounding, whose every call is a new draw, for weights that are not trained leaves, under
torch.compile, or while a CUDA graph is captured, whose replays must quantize the weight of their time.
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
from quantctl.kernels.formats.quantize import quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.grouped_quantize import quantize_stack
from quantctl.spec import FormatSpec

VARIABLE = "QUANTCTL_WEIGHT_REUSE"


class _State(NamedTuple):
    """What must not have changed."""

    version: int
    address: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    spec: FormatSpec


class _Kept(NamedTuple):
    state: tuple[_State, ...]
    """Of the weight, or of each weight of a stack."""
    storage: tuple[torch.UntypedStorage, ...]
    by_axis: dict[int, Tensor]


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def forget(*_: object) -> None:
    """Drop everything that is kept: weights were, or will be, written in a way that torch does not see."""
    _kept.clear()


register_optimizer_step_pre_hook(forget)  # its memory is free for the step
register_optimizer_step_post_hook(forget)  # a closure may have run the model before the step's writes


def nbytes() -> int:
    """Bytes of the results that are kept now."""
    results = {id(t): t for kept in _kept.values() for t in kept.by_axis.values()}
    return sum(t.numel() * t.element_size() for t in results.values())


def _enabled() -> bool:
    value = os.environ.get(VARIABLE, "0")
    if value not in ("0", "1"):
        raise QuantctlError(f"{VARIABLE}={value}: neither 0 nor 1", f"unset {VARIABLE}, or set it to 0 or 1")
    return value == "1"


def _reusable(weight: Tensor, spec: FormatSpec) -> bool:
    return (
        not torch.compiler.is_compiling()
        and _enabled()
        and not spec.is_none
        and spec.round != "stochastic"
        and weight.is_leaf
        and weight.requires_grad
        and not (weight.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _kept_or_new(
    weights: Sequence[Tensor], spec: FormatSpec, axis: int, quantize: Callable[[tuple[int, ...]], list[Tensor]]
) -> Tensor:
    state = tuple(_State(w._version, w.data_ptr(), w.shape, w.stride(), w.dtype, spec) for w in weights)
    kept = _kept.get(weights[0])
    if kept is None or kept.state != state or axis not in kept.by_axis:
        axes = (1, 0) if spec.bwd == "quantized" else (axis,)
        storage = tuple(weight.untyped_storage() for weight in weights)
        kept = _Kept(state, storage, dict(zip(axes, quantize(axes), strict=True)))
        _kept[weights[0]] = kept
    return kept.by_axis[axis]


def quantized_weight(weight: Tensor, spec: FormatSpec, axis: int, rng: Draw | None = None) -> Tensor:
    """quantize_dequantize(weight, spec, axis, rng=rng) for weight [out, in] and axis 0 or 1; not to be written to."""
    if not _reusable(weight, spec):
        return quantize_dequantize(weight, spec, axis, rng=rng)
    return _kept_or_new((weight,), spec, axis, lambda axes: quantize_dequantize_along(weight, spec, axes))


def quantized_stack(weights: Sequence[Tensor], spec: FormatSpec, axis: int, rng: Draw | None = None) -> Tensor:
    """The same for weights of equal shape, behind each other: [weights, out, in]."""
    if not all(_reusable(weight, spec) for weight in weights):
        return quantize_stack(weights, spec, (axis,), (rng,))[0]
    return _kept_or_new(weights, spec, axis, lambda axes: quantize_stack(weights, spec, axes))
