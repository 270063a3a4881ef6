"""A tensor in tiles: where each is in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

CACHE_LINE = 64
"""Bytes."""


class Geometry(NamedTuple):
    """A batch of matrices [m, n] by strides in elements; the stride along n is 1, but for the elements' numbers."""

    batch: Any
    m: Any
    n: Any
    x_batch: Any
    x_m: Any
    out_batch: Any
    out_m: Any
    number_batch: Any
    number_m: Any
    number_n: Any
    rows: Any
    """Of a tile: whole blocks either way."""
    columns: Any
    x_span: Any
    """Elements of memory from the first to the last, of x,"""
    out_span: Any
    """and of a result."""
    across: Any
    """Columns that share a block along m, which then serves both directions: a square."""
    waits: Any
    """Whether nobody wants the result along m before much else has passed through the caches."""


def count(g: Geometry) -> int:
    """How many tiles there are."""
    return int(g.batch * -(-g.m // g.rows) * -(-g.n // g.columns))


def place(number: Any, g: Any) -> Any:
    """Batch, first row and first column of a tile."""
    row_tiles, column_tiles = (g.m + g.rows - 1) // g.rows, (g.n + g.columns - 1) // g.columns
    batch, rest = divmod(number, row_tiles * column_tiles)
    row, column = divmod(rest, column_tiles)
    return batch, row * g.rows, column * g.columns
