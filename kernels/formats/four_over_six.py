"""NVFP4 whose blocks choose their largest element, 4 or 6: scale=4over6 and 4over6_mse of nvfp4.py.

As Transformer Engine computes it (transformer_engine/pytorch/custom_recipes/reference_nvfp4.py, 4over6 with its
defaults; the idea: "Four Over Six", github.com/mit-han-lab/fouroversix). All of it in fp32, each operation rounded:

    s_enc = 6 * 256 / amax(x),  s_dec = 1 / s_enc    the smaller limit leaves b of a block's 4 room within E4M3
    w     = amax(block) / 6 * s_enc
    b6    = E4M3(w),  b4 = E4M3(w * 1.5)             the largest magnitude becomes about 6, or about 4
    q     = E2M1(x * (1 / (b * s_dec)))              by either b
    error = sum |q * b * amax(x) / 1536 - x|         4over6_mse: of squares; element by element, in their order

The smaller error decides, on equality 6. A 16x16 square has the errors of its 16 rows added in pairs eight apart, then
four, two and one. value = q * ((b * amax(x)) * (1 / 1536)).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantctl.kernels.formats.blocks import block_amax
from quantctl.kernels.formats.mxfp4 import E2M1
from quantctl.kernels.formats.mxfp8 import E4M3
from quantctl.spec import FormatSpec

SCALE_LIMIT = 256.0
"""What the scale of the block with the tensor's largest magnitude is, if that becomes 6."""
_WIDTH = 16
_FP32_LARGEST = torch.finfo(torch.float32).max

ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"4over6": torch.abs, "4over6_mse": torch.square}
"""Scale rule -> what is added up of an element's difference."""


def _summed(errors: Tensor) -> Tensor:
    """Sums of blocks' elements [..., 16 or 256], in the order that the docstring says; [..., 1]."""
    rows = errors.unflatten(-1, (-1, min(_WIDTH, errors.shape[-1])))
    total = rows[..., 0]
    for i in range(1, rows.shape[-1]):
        total = total + rows[..., i]
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = total[..., :half] + total[..., half:]
    return total


def quantize(values: Tensor, axis: int, amax: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """q and b of fp32 blocks that fill `axis`, of a tensor or of rows with the largest finite magnitude `amax`."""
    assert spec.scale is not None
    assert spec.round is not None
    limit = torch.full_like(amax, E2M1.largest * SCALE_LIMIT)
    encode = (limit / amax).clamp_max(_FP32_LARGEST)
    decode = encode.reciprocal()
    of_block = block_amax(values, axis)
    wanted = (of_block / torch.full_like(of_block, E2M1.largest) * encode).masked_fill(~of_block.isfinite(), torch.nan)
    found = []
    for factor in (1.0, 1.5):
        b = E4M3.round_(wanted * factor, "nearest", None)
        inverse = (b * decode).reciprocal().clamp_max(_FP32_LARGEST)
        q = E2M1.round_((values * inverse).clamp_(-E2M1.largest, E2M1.largest), spec.round, None)
        error = ERRORS[spec.scale](q * b * amax / limit - values)
        found.append((q, b, _summed(error.movedim(axis, -1)).movedim(-1, axis)))
    (six, b_six, error_six), (four, b_four, error_four) = found
    picks_four = error_four < error_six
    return torch.where(picks_four, four, six), torch.where(picks_four, b_four, b_six)
