"""What the quantizations of a layer's products draw from: noise for each operand, random signs for each product.

All that the forward can know is drawn in the forward, in one order, so that a recomputed forward repeats it; only the
rounding of a gradient, and of a weight that is quantized anew in the backward, is drawn there.
"""

from __future__ import annotations

from typing import NamedTuple

from quantctl.kernels.philox import Draw, next_draw, own_draw
from quantctl.spec import PRODUCTS, FormatSpec, Operand, ProductSpecs

Signs = tuple[int | None, int | None, int | None]
"""The calls that the random signs of fprop, dgrad and wgrad are drawn from; None where a product has none."""


def signs_for(specs: ProductSpecs) -> Signs:
    """New ones. To be drawn in the forward, behind all of its noise: a recomputed forward draws them again."""
    return (_sign_call(specs.fprop), _sign_call(specs.dgrad), _sign_call(specs.wgrad))


def _sign_call(pair: tuple[Operand, Operand]) -> int | None:
    return next_draw().call if pair[0].spec.signs == "random" else None


def rounding_for(spec: FormatSpec) -> Draw | None:
    """A new draw where `spec` rounds stochastically."""
    return next_draw() if spec.round == "stochastic" else None


def with_signs(draw: Draw | None, call: int | None) -> Draw | None:
    """The draw of an operand's rounding, if it has one, and of its product's signs."""
    return draw if call is None else (draw or own_draw(call)).with_signs(call)


class LinearDraws(NamedTuple):
    """Those of a linear layer's forward; in this order, whatever is packed or needed later."""

    x: Draw | None
    weight: Draw | None
    tokens: Draw | None
    """That of X along tokens, for wgrad; None if that is not what wgrad wants."""
    signs: Signs

    @classmethod
    def of(cls, specs: ProductSpecs) -> LinearDraws:
        x, weight, tokens = (rounding_for(own.spec) for own in (*specs.fprop, specs.wgrad[1]))
        signs = signs_for(specs)
        return cls(with_signs(x, signs[0]), with_signs(weight, signs[0]), with_signs(tokens, signs[2]), signs)

    def gradient(self, spec: FormatSpec, product: str) -> Draw | None:
        """That of dY for a gradient product."""
        return with_signs(rounding_for(spec), self.signs[PRODUCTS.index(product)])
