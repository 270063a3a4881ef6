"""Codes of a tensor, and the values of codes, on a CPU: one kernel each for the elements of all formats.

What the elements of a block are multiplied by comes from multipliers.py. Each operation is the reference's, so
nothing at the ends of the range is left out but products that may be subnormal; these, and threads that flush subnormal
numbers, are left to the reference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantctl.kernels.cpu.compiled import Kernel, as_bits, as_float, implements
from quantctl.kernels.cpu.hifp8 import element
from quantctl.kernels.cpu.multipliers import after, before, element_of, layout_of, values_of
from quantctl.kernels.cpu.rest import flushes
from quantctl.kernels.cpu.rounding import RULES, is_stochastic, rounded_to
from quantctl.kernels.cpu.scaled import elements_of, whole_numbers
from quantctl.kernels.cpu.threads import in_pieces
from quantctl.kernels.cpu.words import INFINITY
from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.blocks import Block
from quantctl.kernels.formats.format import Codes
from quantctl.kernels.formats.rounding import BIAS, MANTISSA_BITS
from quantctl.spec import FormatSpec

_HIFP8_CODES = hifp8.codes_table(torch.empty(0, device="cpu")).numpy()


class Places(NamedTuple):
    """Rows [batch, m, n], contiguous, and the numbers of their blocks in row-major order."""

    m: Any
    n: Any
    across: Any
    along: Any
    rows: Any
    """Of blocks in a matrix."""
    in_row: Any


def _places(shape: torch.Size, block: Block) -> tuple[Places, int]:
    """And how many rows there are."""
    n, lines = shape[-1], shape[:-1].numel()
    if not block.across:  # one for all
        return Places(lines, n, lines, n, 1, 1), lines
    m = shape[-2] if len(shape) > 1 else 1
    along = block.along or n
    return Places(m, n, block.across, along, -(-m // block.across), -(-n // along)), lines


class Grid(NamedTuple):
    """An element type."""

    lowest: Any
    """Bits of the smallest normal number."""
    mantissa: Any
    """Mantissa bits in the exponent field."""
    largest: Any
    shift: Any
    """Of fp32's bits, so that they end with the mantissa."""
    offset: Any
    """What they are then larger by than the code."""
    subnormal: Any
    """The inverse of the smallest subnormal number."""
    first_normal: Any
    sign: Any
    whole: Any
    """Whether codes are whole numbers in two's complement, of which one is 0."""


class Tapered(NamedTuple):
    """HiFloat8."""

    codes: Any


def _grid(spec: FormatSpec) -> Grid | Tapered:
    of = element_of(spec)
    if spec.format == "hifp8":
        return Tapered(_HIFP8_CODES)
    if of is None:
        numbers = whole_numbers(0.0)
        zero = np.int32(0)
        return Grid(*numbers[:3], zero, zero, np.float32(0.0), zero, zero, True)
    return Grid(
        *elements_of(of, 0.0)[:3],
        np.int32(MANTISSA_BITS - of.mantissa_bits),
        np.int32((BIAS + of.min_exponent - 1) << of.mantissa_bits),
        np.float32(2.0 ** (of.mantissa_bits - of.min_exponent)),
        np.int32(1 << of.mantissa_bits),
        np.int32(1 << (of.bits - 1)),
        False,
    )


def _code(bits: Any, is_negative: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    """That of the fp32 magnitude `bits`, int32; 0 in a block without a scale."""


@implements(_code, e=Grid)
def _code_on_grid(bits: Any, is_negative: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    y = as_bits(min((as_float(bits) * first) * second, e.largest))
    q = rounded_to(y, e.lowest, e.mantissa, word, how)
    number = np.int32(q) if e.whole else np.int32(min(q * e.subnormal, np.float32(e.first_normal)))
    negative = np.int32(np.int32(-number) & np.int32(0xFF)) if e.whole else np.int32(0)
    normal = np.int32(0) if e.whole else np.int32((as_bits(q) >> e.shift) - e.offset)
    code = max(normal, number)
    code = (negative if e.whole else np.int32(code | e.sign)) if is_negative else code
    return code if first == first else np.int32(0)


@implements(_code, e=Tapered)
def _tapered_code(bits: Any, is_negative: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    under = bits if bits >= np.int32(INFINITY) else as_bits(as_float(bits) / first)
    q = element(under, word, how)
    index = np.int32((q >> np.int32(hifp8.CODES_SHIFT)) - np.int32(hifp8.CODES_FIRST))
    code = np.int32(e.codes[min(max(index, np.int32(0)), np.int32(hifp8.CODES_LAST))])
    code = np.int32(code | np.int32(hifp8.CODE_SIGN)) if is_negative and q != np.int32(0) else code
    return np.int32(hifp8.CODE_NAN) if bits > np.int32(INFINITY) else code


@Kernel
def _encode(
    x: Any, noise: Any, out: Any, firsts: Any, second: Any, e: Any, how: Any, p: Any, start: Any, stop: Any
) -> None:
    """Rows start .. stop of x, int32 bits of fp32 numbers, into out, uint8. noise: fp32, empty where there is none."""
    word = np.int32(0)
    for line in range(start, stop):
        batch, i = divmod(line, p.m)
        blocks = (batch * p.rows + i // p.across) * p.in_row
        for b in range(p.in_row):
            first, at = firsts[blocks + b], np.uint64(line * p.n + b * p.along)
            for c in range(np.uint64(min(p.along, p.n - b * p.along))):
                if is_stochastic(how):
                    word = np.int32(noise[at + c] * np.float32(2.0**24))
                bits = x[at + c]
                out[at + c] = _code(
                    np.int32(bits & np.int32(0x7FFFFFFF)), bits < np.int32(0), first, second, e, word, how
                )


@Kernel
def _decode(
    codes: Any, out: Any, values: Any, firsts: Any, seconds: Any, largest: Any, p: Any, start: Any, stop: Any
) -> None:
    """Rows start .. stop of values * first * second, fp32, at most `largest`; what is not finite stays."""
    for line in range(start, stop):
        batch, i = divmod(line, p.m)
        blocks = (batch * p.rows + i // p.across) * p.in_row
        for b in range(p.in_row):
            first, second, at = firsts[blocks + b], seconds[blocks + b], np.uint64(line * p.n + b * p.along)
            for c in range(np.uint64(min(p.along, p.n - b * p.along))):
                value = values[codes[at + c]]
                product = (value * first) * second
                limited = min(max(product, -largest), largest)
                finite = np.int32(as_bits(value) & np.int32(INFINITY)) != np.int32(INFINITY)
                limited = limited if product == product else product
                out[at + c] = limited if finite else value


def encode(rows: Tensor, spec: FormatSpec, noise: Tensor | None) -> Codes | None:
    """As the format's own encode, of contiguous rows [..., n]; None where it is left to that."""
    if flushes() or not rows.numel():
        return None
    shared = before(rows, spec)
    if shared is None or bool(shared.first.isinf().any()):
        return None
    places, lines = _places(rows.shape, shared.block)
    elements = torch.empty(rows.shape, dtype=torch.uint8, device="cpu")
    e, rule = _grid(spec), RULES[str(spec.round)]
    arguments = (
        rows.float().view(torch.int32).view(-1).numpy(),
        (torch.empty(0, device="cpu") if noise is None else noise.contiguous().view(-1)).numpy(),
        elements.view(-1).numpy(),
        shared.first.contiguous().view(-1).numpy(),
        np.float32(shared.second),
        e,
        rule,
        places,
    )

    def work(start: int, stop: int) -> None:
        _encode((type(e), type(rule)), *arguments, start, stop)

    in_pieces(work, lines, rows.numel())
    return Codes(elements, shared.block_scales, shared.tensor_scale)


def decode(codes: Codes, spec: FormatSpec, dtype: torch.dtype) -> Tensor | None:
    """As the format's own decode; None where it is left to that."""
    if flushes() or not codes.elements.numel():
        return None
    factors = after(codes, spec)
    if factors is None:
        return None
    places, lines = _places(codes.elements.shape, layout_of(spec))
    out = torch.empty(codes.elements.shape, dtype=torch.float32, device="cpu")
    arguments = (
        codes.elements.contiguous().view(-1).numpy(),
        out.view(-1).numpy(),
        values_of(spec, codes.elements).numpy(),
        *(factor.contiguous().view(-1).numpy() for factor in factors),
        np.float32(torch.finfo(dtype).max),
        places,
    )

    def work(start: int, stop: int) -> None:
        _decode("decode", *arguments, start, stop)

    in_pieces(work, lines, out.numel())
    return out.to(dtype)
