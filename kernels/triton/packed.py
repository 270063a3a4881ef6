"""Packing on a GPU: one pass gives a matrix through its format along its rows, and its codes along either axis.

The twin of packed.py, equal in every bit. A matrix is [rows, columns], contiguous; a program takes a tile of it, whole
blocks of either direction, as in qdq.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import torch
import triton
from torch import Tensor

from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.codes import GROUPS
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.kernels.formats.tensor_scale import extent_of, has_tensor_scale, kept_of
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.packed import Layout, Packed, nbytes, shapes
from quantctl.kernels.strides import ONE, Dim, Matrices
from quantctl.kernels.triton.amax import amaxes
from quantctl.kernels.triton.constants import SCALE_DTYPES, Quantizer, quantizer
from quantctl.kernels.triton.launch import ROLES, Tile, draw_words, raw
from quantctl.kernels.triton.pack_kernels import pack_kernel, unpack_kernel
from quantctl.spec import NONE, FormatSpec


@lru_cache(maxsize=64)
def packing(spec: FormatSpec) -> dict[str, int]:
    """The kernels' parameters for groups of codes."""
    count, width = GROUPS[FORMATS[spec.format].bits(spec)]
    return {"COUNT": count, "WIDTH": width}


def empty(x: Tensor, layout: Layout) -> Packed:
    """Room for the codes and scales of x; what is kept of tensors and rows comes later."""
    elements, scales, factors = shapes(layout)
    dtype = SCALE_DTYPES.get(layout.spec.format, torch.uint8)
    return Packed(
        x.new_empty(elements, dtype=torch.uint8),
        None if scales is None else x.new_empty(scales, dtype=dtype),
        None if factors is None else x.new_ones(factors, dtype=torch.float32),
    )


def with_kept(packed: Packed, amax: Tensor, q: Quantizer, layout: Layout) -> Packed:
    """What is kept of the tensor, groups or rows whose largest magnitudes have the bits amax."""
    own = torch.float32 if q.DTYPE == "fp32" else layout.dtype
    kept = kept_of(amax.view(torch.float32), layout.spec, own)
    if has_tensor_scale(layout.spec):
        return packed._replace(tensor_scale=kept.view(shapes(layout).tensor_scale or ()))
    return packed._replace(block_scales=kept.view(shapes(layout).block_scales or ()))


def kept_in(packed: Packed) -> Tensor:
    """What with_kept gave; something else where it was not called."""
    found = packed.block_scales if packed.tensor_scale is None else packed.tensor_scale
    return packed.elements if found is None else found


def quantize_dequantize_packed(
    x: Tensor, layout: Layout, draws: tuple[Draw | None, Draw | None], spec: FormatSpec, *, values: bool = True
) -> tuple[Tensor, Packed]:
    """x [rows, columns], contiguous: its values along axis 1 if they are wanted, and packed as `layout` says of what is
    behind the transform of `spec`. Waits for no device.

    draws: that of the values and, for axis 0, that of the codes; of one seed and rank.
    """
    out, packed = torch.empty_like(x) if values else x, empty(x, layout)
    if not x.numel():
        return out, packed
    q, roles = quantizer(spec, x.dtype), ROLES if layout.axis == 0 else ROLES[:1]
    m, n = Dim(layout.rows, layout.columns, layout.columns, layout.columns), Dim(layout.columns, 1, 1, 1)
    launch = Matrices(ONE, m, n, ("last", "first"))
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        whole = Tile.whole(q, launch, "last") if layout.axis == 1 else None
        tile = whole or Tile.of(q, layout.columns, roles)
        if q.EXTENT == NONE:
            amax = dict.fromkeys(ROLES, x)
        elif whole:
            amax = dict.fromkeys(ROLES, x.new_empty(layout.rows, dtype=torch.int32))
        else:
            amax = amaxes(x, q, launch, tile, roles, draws[: len(roles)])
        pack_kernel[(tile.programs(launch),)](
            *(raw(x), raw(out), packed.elements, x if packed.block_scales is None else packed.block_scales),
            *(*(amax[role] for role in ROLES), hifp8.codes_table(x) if spec.format == "hifp8" else x),
            *(layout.rows, layout.columns, packed.elements.shape[1]),
            **draw_words(ROLES, draws),
            AXIS=layout.axis,
            Q=q,
            VALUES=values,
            WHOLE=whole is not None,
            FOURS=layout.columns % 4 == 0,
            **packing(spec),
            **tile.constants(q),
        )
        if q.EXTENT != NONE:
            packed = with_kept(packed, amax[roles[-1]], q, layout)
    return out, packed


def dequantize(packed: Packed, layout: Layout) -> Tensor:
    """The values of `packed`, [rows, columns]."""
    spec, elements = layout.spec, packed.elements
    values = elements.new_empty(layout.rows, layout.columns, dtype=layout.dtype)
    if not values.numel():
        return values
    q = quantizer(spec, layout.dtype)
    tile = Tile.of(q, layout.columns, ROLES if layout.axis == 0 else ROLES[:1])
    programs = triton.cdiv(layout.rows, tile.rows) * triton.cdiv(layout.columns, tile.columns)
    with torch.cuda.device(elements.device) if elements.is_cuda else nullcontext():
        unpack_kernel[(programs,)](
            *(elements, elements if packed.block_scales is None else packed.block_scales, kept_in(packed)),
            raw(hifp8.values_table(elements)) if spec.format == "hifp8" else elements,
            *(raw(values), layout.rows, layout.columns, elements.shape[1]),
            AXIS=layout.axis,
            Q=q,
            **packing(spec),
            **tile.constants(q),
        )
    return values


def bytes_moved(layout: Layout, *, whole: bool = False) -> tuple[int, int]:
    """Bytes of device memory that packing and unpacking have to read and write; of rows in groups, too.

    Packing reads x and writes its values and the packed matrix; a scale of the tensor or of rows reads x once more, but
    where a tile holds whole rows. Where the groups end is not counted.
    """
    values = layout.rows * layout.columns * layout.dtype.itemsize
    waits = extent_of(layout.spec) != NONE and not whole
    return (2 + waits) * values + nbytes(layout), nbytes(layout) + values
