"""What the operands of a product and of its two gradient products are, by the spec of each.

Each product quantizes its two operands to their own formats, along the axis that it reduces; where there is none, the
operand is as it is. A gradient product's operand of the forward begins as it was, or with the values that the forward
computed with (`source`, straight-through): the very same ones, stochastic rounding included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.hadamard import fits
from quantctl.kernels.formats.quantize import quantize_dequantize_along
from quantctl.kernels.measure import coverage, hits
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.draws import Signs, rounding_for, with_signs
from quantctl.kernels.products.modules import Named
from quantctl.spec import FORWARD, PRODUCTS, FormatSpec, Operand, ProductSpecs, canonical, products

Draws = tuple[Draw | None, ...]
Quantize = Callable[[Tensor, FormatSpec, tuple[int, ...], Draws | None], list[Tensor]]
"""quantize_dequantize_along, or what stands for it where rows lie in groups."""


def resolve(text: str, site: str) -> ProductSpecs:
    """What the spec `text`, without rules, says of the three products of `site`; QuantctlError if it is unknown."""
    return products(text, site)


def tally_of(site: str, text: str, layer: Named | str | None = None) -> hits.Tally | None:
    """Where products in `text`, a spec without rules, are counted; layer: the module that they belong to.

    None where they are not: stock products count where the selector speaks of their module. None under torch.compile,
    too, where each count is a node of the graph.
    """
    return None if torch.compiler.is_compiling() else _tally(site, text, _name(site, layer))


def _name(site: str, layer: Named | str | None) -> str | None:
    return layer.name if isinstance(layer, Named) and site in layer.literals else None


@lru_cache(maxsize=4096)
def _tally(site: str, text: str, name: str | None) -> hits.Tally | None:
    is_counted = name is not None or not resolve(text, site).is_none
    return hits.tally(site, canonical(text, site), name) if is_counted else None


def count(site: str, product: str, text: str, layer: Named | str | None = None) -> None:
    """Count a product in tally_of these."""
    if torch.compiler.is_compiling():
        _count_operator(site, product, text, _name(site, layer))
    elif (tally := tally_of(site, text, layer)) is not None:
        tally.add(product)


@torch.library.custom_op(
    "quantctl::count", mutates_args=(), schema="(str site, str product, str text, str? name) -> ()"
)
def _count_operator(site: str, product: str, text: str, name: str | None) -> None:
    """`count` as one node of a torch.compile graph."""
    coverage.give_up()
    if (tally := _tally(site, text, name)) is not None:
        tally.add(product)


@_count_operator.register_fake
def _(site: str, product: str, text: str, name: str | None) -> None:
    return None


if hasattr(_count_operator, "register_effect"):  # torch 2.10; before, a graph loses a node that nothing needs
    _count_operator.register_effect(torch.library.EffectType.ORDERED)


def check_sizes(specs: ProductSpecs, sizes: tuple[int, int, int], where: str) -> None:
    """Raises QuantctlError for a Hadamard transform that does not divide the axis that its product reduces.

    sizes: of those of fprop, dgrad and wgrad. where: the module, for the message.
    """
    reduced = _REDUCED[specs.site]
    for product, size, axis in zip(PRODUCTS, sizes, reduced, strict=True):
        spec = getattr(specs, product)[0].spec
        if not fits(size, spec):
            raise QuantctlError(
                f"{where}: hadamard={spec.hadamard} does not divide the {size} {axis} that {product} reduces",
                f"choose a size that does, or {product}.hadamard=none",
            )


_REDUCED = {
    **dict.fromkeys(("linear", "lm_head"), ("in-features", "out-features", "tokens")),
    "qk": ("columns of a head", "keys", "queries"),
    "pv": ("keys", "columns of a head", "queries"),
}
"""By site: what fprop, dgrad and wgrad reduce."""


def begin(own: Operand, original: Tensor, forward: Tensor) -> Tensor:
    """What a gradient product's operand begins with: the operand as it was, or the values of the forward."""
    return forward if own.source == FORWARD else original


def forward_operand_in_backward(
    x: Tensor,
    forward: Operand,
    own: Operand,
    axes: tuple[int, int],
    draws: tuple[Draw | None, Draw | None],
    quantize: Quantize = quantize_dequantize_along,
) -> Tensor:
    """Operand `x` of the forward as a gradient product takes it.

    forward, own: its numerics there and here. axes, draws: those of both; without a draw of its own it gets a new one.
    """
    if own.source == FORWARD:
        (x,) = quantize(x, forward.spec, axes[:1], draws[:1])
    return quantize(x, own.spec, axes[1:], draws[1:])[0]


def gradients(
    grad: Tensor,
    specs: ProductSpecs,
    axes: tuple[int, int],
    needed: tuple[bool, bool],
    signs: Signs,
    quantize: Quantize = quantize_dequantize_along,
) -> list[Tensor]:
    """The incoming gradient as dgrad and wgrad take it, each along its one of `axes`; read once for equal formats.

    What is not needed is the gradient itself.
    """
    found, slots = [grad, grad], (specs.dgrad[0].spec, specs.wgrad[0].spec)
    numbers = [number for number in (0, 1) if needed[number]]
    parts = [numbers] if slots[0] == slots[1] else [[number] for number in numbers]
    for part in filter(None, parts):
        draws = tuple(with_signs(rounding_for(slots[number]), signs[1 + number]) for number in part)
        results = quantize(grad, slots[part[0]], tuple(axes[number] for number in part), draws)
        for number, result in zip(part, results, strict=True):
            found[number] = result
    return found
