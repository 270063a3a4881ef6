"""What the specs of a linear layer say of its quantizations, whatever the tensors: found once for each of them.

A layer is called hundreds of times a step, and small ones take no longer than Python does to look through six specs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from quantctl.kernels.formats.hadamard import is_wanted
from quantctl.kernels.products.draws import LinearDraws
from quantctl.kernels.products.operands import resolve
from quantctl.spec import FORWARD, FormatSpec, Operand, ProductSpecs

WeightSteps = tuple[tuple[FormatSpec, int], ...]
"""The formats that a weight goes through for a product, and the axis of each."""


class Kept(NamedTuple):
    """How wgrad's operand of the forward waits for it, packed."""

    spec: FormatSpec
    axis: int
    """0: along tokens, as wgrad takes it; 1: along features, as the forward does."""
    together: bool
    """Whether one read of the operand gives this and the forward's own values."""


def kept(specs: ProductSpecs) -> Kept | None:
    """None where wgrad takes its operand of the forward as it is."""
    forward, own = specs.fprop[0].spec, specs.wgrad[1]
    if own.spec.is_none:
        return Kept(forward, 1, True) if own.source == FORWARD else None
    return Kept(own.spec, 0, own.source != FORWARD and own.spec == forward)


def weight_steps(forward: Operand, own: Operand, product: str) -> WeightSteps:
    """forward, own: the weight's numerics in fprop and in dgrad. product: one of these."""
    steps = [(forward.spec, 1)] if product == "fprop" or own.source == FORWARD else []
    if product == "dgrad":
        steps.append((own.spec, 0))
    return tuple(step for step in steps if not step[0].is_none)


class LinearPlan(NamedTuple):
    """Of the three products of a linear layer."""

    specs: ProductSpecs
    is_none: bool
    """Whether every product is the stock one."""
    is_transformed: bool
    """Whether any has a Hadamard transform."""
    draws: LinearDraws | None
    """What a forward draws where it draws nothing; None where each draws anew."""
    kept: Kept | None
    gradient: FormatSpec | None
    """That of dY, where dgrad and wgrad take it in one format: read once for both."""
    weight: FormatSpec | None
    """That of W, where fprop and dgrad take it in one format that draws nothing: read once for both."""
    is_weight_same: bool
    """Whether dgrad takes W just as fprop does, quantized."""


@lru_cache(maxsize=256)
def plan_of(text: str, site: str) -> LinearPlan:
    """What `text`, a spec without rules, says of `site`; QuantctlError if it is unknown."""
    specs = resolve(text, site)
    pairs = (specs.fprop, specs.dgrad, specs.wgrad)
    of_gradient, of_weight = specs.dgrad[0].spec, specs.fprop[1].spec
    steps, later = (weight_steps(specs.fprop[1], specs.dgrad[1], product) for product in ("fprop", "dgrad"))
    is_read_once = bool(steps) and later == ((of_weight, 0),) and not of_weight.is_random
    in_forward = (*specs.fprop, specs.wgrad[1])
    draws_anew = any(own.spec.round == "stochastic" for own in in_forward)
    draws_anew = draws_anew or any(pair[0].spec.signs == "random" for pair in pairs)
    return LinearPlan(
        specs=specs,
        is_none=specs.is_none,
        is_transformed=any(is_wanted(pair[0].spec) for pair in pairs),
        draws=None if draws_anew else LinearDraws.of(specs),
        kept=kept(specs),
        gradient=of_gradient if not of_gradient.is_none and of_gradient == specs.wgrad[0].spec else None,
        weight=of_weight if is_read_once else None,
        is_weight_same=bool(steps) and later == steps,
    )
