"""What the implementations of fused attention (fused_pv_reference.py, triton_flash.py) are called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from quantctl.kernels.formats.tensor_scale import extent_of
from quantctl.kernels.philox import Draw
from quantctl.spec import FormatSpec


@dataclass(frozen=True)
class Call:
    """Everything but the tensors, which are [batch, heads or groups, sequence, d] views with any strides."""

    scale: float
    causal: bool
    pv: FormatSpec
    """The format of the probabilities in this product; `none` leaves them in the operands' dtype."""
    draw: Draw | None
    """Theirs, where they are rounded stochastically: an element's index is that in [batch * heads, sq, sk]."""

    @property
    def is_scaled(self) -> bool:
        """The format has a scale of the whole tensor, so its amax must be known first."""
        return extent_of(self.pv) == "tensor"

    @staticmethod
    def empty(q: Tensor, width: int) -> Tensor:
        """[batch, heads, sequence, width] like q, contiguous as Megatron's [sequence, batch, heads, width]."""
        batch, heads, length, _ = q.shape
        return q.new_empty(length, batch, heads, width).permute(1, 2, 0, 3)


class Operands(NamedTuple):
    """What a backward computes with."""

    q_scores: Tensor
    """q_scores and k_scores give the scores again, as in the forward."""
    k_scores: Tensor
    q: Tensor
    """dK = scale dS^T q."""
    k: Tensor
    """dQ = scale dS k."""
    v: Tensor
    """dP = dO v^T."""
    out: Tensor
    saved: tuple[Tensor, ...]
    """What the implementation's own forward left."""
