"""Quantize-dequantize of groups of rows on a GPU: the tokens of each expert, or the weights of all experts, at once.

Formulas and tiles are those of triton_qdq.py; here a tile belongs to one group, and each group's first row starts a
tile. Which group a program works for is read from where the groups' tiles end, so the launch depends on no count: it
has a program for as many tiles as there can be, and those that find no group do nothing. Weights are read where they
lie, by a table of their addresses, and written behind each other, as a grouped GEMM wants them, without a copy first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantctl.kernels.formats.tensor_scale import extent_of
from quantctl.kernels.operator import uncaptured
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.triton.amax import add_amax
from quantctl.kernels.triton.bits import load_bits, store_bits
from quantctl.kernels.triton.constants import Quantizer, quantizer
from quantctl.kernels.triton.launch import ROLES, Tile, draw_words, raw
from quantctl.kernels.triton.qdq import tile_values
from quantctl.spec import NONE, FormatSpec, parse

ALIGNMENT = 16
"""Bytes: a table's addresses are multiples, so that the compiler may load as many at once."""


@triton.jit
def group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size, x_row, TABLE: tl.constexpr,
               GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """This program's group, rows [ROWS, 1] of the whole, which of them are the group's, first column, columns
    [1, COLUMNS], which elements are x's, pointers to them."""
    n_tiles = tl.cdiv(n_size, COLUMNS)
    tile = tl.program_id(0) // n_tiles
    lanes = tl.arange(0, GROUPS)
    tile_ends = tl.load(tile_ends_ptr + lanes, mask=lanes < groups, other=0x7FFFFFFF)
    group = tl.sum((tile_ends <= tile).to(tl.int32), axis=0)
    found, behind_another = group < groups, (group > 0) & (group < groups)
    first_tile = tl.load(tile_ends_ptr + group - 1, mask=behind_another, other=0)
    # int64 before the first product with a stride: tensors have more than 2^31 elements
    start = tl.load(ends_ptr + group - 1, mask=behind_another, other=0).to(tl.int64)
    end = tl.load(ends_ptr + group, mask=found, other=0).to(tl.int64)
    m = (start + (tile - first_tile).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    n_start = (tl.program_id(0) % n_tiles).to(tl.int64) * COLUMNS
    n = (n_start + tl.arange(0, COLUMNS))[None, :]
    exists = m < end
    if TABLE:
        address = tl.load(table_ptr + group, mask=found, other=0)
        base = tl.multiple_of(address.to(x_ptr.dtype), 16)
        pointers = base + ((m - start) * x_row + n)
    else:
        pointers = x_ptr + (m * x_row + n)
    return group, m, exists, n_start, n, exists & (n < n_size), pointers


@triton.jit
def group_row_of(group, groups, m, exists, n, n_size, AXIS: tl.constexpr, Q: tl.constexpr):
    """amax.row_of for a tile of a group: what tensors have is the group's, and so is a row along AXIS 0."""
    if Q.value.EXTENT != "row":
        at = tl.zeros((1, 1), tl.int32) + group
        return at, at < groups
    elif AXIS == 1:
        return m, exists
    else:
        return group.to(tl.int64) * n_size + n, (n < n_size) & (group < groups)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "rank", "call_low_last", "call_high_last", "call_low_first",
                               "call_high_first", "groups"])  # fmt: skip
def grouped_qdq_kernel(x_ptr, table_ptr, last_ptr, first_ptr, ends_ptr, tile_ends_ptr, amax_last_ptr, amax_first_ptr,
                       groups, n_size, x_row, seed_low, seed_high, rank, call_low_last, call_high_last, call_low_first,
                       call_high_first, TABLE: tl.constexpr, LAST: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
                       FOURS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
                       COLUMNS: tl.constexpr):  # fmt: skip
    """x -> its values in blocks along the columns (LAST), along the rows of each group (FIRST), or both.

    x is [rows, n_size] with x_row elements between rows or, with TABLE, such a matrix a group at the address that
    the table has for it. The results are [rows of all groups, n_size], contiguous. amax_*: as grouped_amax_kernel
    gives them.
    """
    tl.static_assert(LAST or FIRST)
    group, m, exists, n_start, n, mask, pointers = group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                              x_row, TABLE, GROUPS, ROWS, COLUMNS)  # fmt: skip
    bits = load_bits(pointers, mask, Q.value.BF16)
    out = m * n_size + n
    if LAST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 1, Q)
        values = tile_values(bits, amax_last_ptr, at, there, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_last, call_high_last, 0, 0, 1, Q, False, FOURS, ROWS, COLUMNS)  # fmt: skip
        store_bits(last_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)
    if FIRST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 0, Q)
        values = tile_values(bits, amax_first_ptr, at, there, 0, m, n, n_start, n_size, 1, seed_low, seed_high, rank,
                             call_low_first, call_high_first, 0, 0, 0, Q, False, FOURS, ROWS, COLUMNS)  # fmt: skip
        store_bits(first_ptr + out, values, mask, Q.value.BF16, Q.value.EXACT)


@triton.jit(do_not_specialize=["groups"])
def grouped_amax_kernel(x_ptr, table_ptr, last_ptr, first_ptr, ends_ptr, tile_ends_ptr, groups, n_size, x_row,
                        TABLE: tl.constexpr, LAST: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
                        GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The bits of the largest magnitudes, into int32 that are 0 before: [groups], of rows along the columns (LAST)
    [rows], of rows along the rows of each group (FIRST) [groups, n_size]."""
    group, m, exists, _, n, mask, pointers = group_tile(x_ptr, table_ptr, ends_ptr, tile_ends_ptr, groups, n_size,
                                                        x_row, TABLE, GROUPS, ROWS, COLUMNS)  # fmt: skip
    bits = load_bits(pointers, mask, Q.value.BF16)
    if LAST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 1, Q)
        add_amax(bits, last_ptr, at, there, 1, Q)
    if FIRST:
        at, there = group_row_of(group, groups, m, exists, n, n_size, 0, Q)
        add_amax(bits, first_ptr, at, there, 0, Q)


def _quantize(
    x: Tensor,
    table: Tensor | None,
    groups: Groups,
    spec: FormatSpec,
    axes: tuple[int, ...],
    draws: tuple[Draw | None, ...],
) -> list[Tensor]:
    """x [rows, n] or, with a table of addresses, the first of the weights [rows of a group, n]: [rows of all, n]."""
    n = x.shape[1]
    outs = [x.new_empty(groups.rows, n) for _ in axes]
    if not outs[0].numel():
        return outs
    roles = tuple("first" if axis == 0 else "last" for axis in axes)
    by_role = dict(zip(roles, outs, strict=True))
    q = quantizer(spec, x.dtype)
    tile = Tile.of(q, n, roles)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        amax = group_amaxes(x, table, groups, tile, q, roles)
        grouped_qdq_kernel[(programs(groups, n, tile),)](
            *(raw(x), groups.ends if table is None else table),
            *(raw(by_role.get(role, outs[0])) for role in ("last", "first")),
            *(groups.ends, groups.tile_ends(tile.rows), *(amax[role] for role in ROLES), len(groups), n, x.stride(0)),
            **without_signs(draw_words(roles, draws)),
            TABLE=table is not None,
            LAST="last" in by_role,
            FIRST="first" in by_role,
            Q=q,
            FOURS=n % 4 == 0,
            GROUPS=triton.next_power_of_2(len(groups)),
            **tile.constants(q),
        )
    return outs


def programs(groups: Groups, n: int, tile: Tile) -> int:
    return groups.tiles(tile.rows) * triton.cdiv(n, tile.columns)


def without_signs(words: dict[str, int]) -> dict[str, int]:
    """Draws of what has no Hadamard transform."""
    return {name: word for name, word in words.items() if not name.startswith("signs")}


def group_amaxes(
    x: Tensor, table: Tensor | None, groups: Groups, tile: Tile, q: Quantizer, roles: tuple[str, ...]
) -> dict[str, Tensor]:
    """By role, int32: the bits of the largest magnitude of each group [groups], or of each row: [rows], or [groups, n];
    anything where the format has none.

    x, table: as in _quantize.
    """
    if q.EXTENT == NONE:
        return dict.fromkeys(ROLES, groups.ends)
    n = x.shape[1]
    roles = roles if q.EXTENT == "row" else roles[:1]
    lengths = {"last": groups.rows, "first": len(groups) * n}
    sizes = [lengths[role] if q.EXTENT == "row" else len(groups) for role in roles]
    found = torch.zeros(sum(sizes), dtype=torch.int32, device=x.device).split(sizes)
    by_role = dict(zip(roles, found, strict=True))
    amax = {role: by_role.get(role, found[0]) for role in ROLES}
    grouped_amax_kernel[(programs(groups, n, tile),)](
        *(raw(x), groups.ends if table is None else table, *(amax[role] for role in ROLES)),
        *(groups.ends, groups.tile_ends(tile.rows), len(groups), n, x.stride(0)),
        TABLE=table is not None,
        LAST="last" in by_role,
        FIRST="first" in by_role,
        Q=q,
        GROUPS=triton.next_power_of_2(len(groups)),
        **tile.constants(q),
    )
    return amax


def quantize_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """Contiguous x [rows, n] along each of `axes`, read once; 0 is along the rows of each group.

    draws: for each axis, of one seed and rank, where the spec rounds stochastically. Nothing here waits for the device.
    """
    if torch.compiler.is_compiling():
        return rows_operator(x, groups.ends, literal(spec), list(axes), words_of(draws))
    return _quantize(x, None, groups, spec, axes, draws)


def quantize_stack(
    weights: Sequence[Tensor], spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """Weights [out, in] of equal shape and dtype as one [weights, out, in] along each of `axes`; each is read once."""
    if torch.compiler.is_compiling():
        return stack_operator(list(weights), literal(spec), list(axes), words_of(draws))
    first = weights[0].detach()
    groups = Groups.equal(len(weights), first.shape[0], first.device)
    addresses = tuple(weight.data_ptr() for weight in weights)
    in_place = all(weight.is_contiguous() for weight in weights) and not any(a % ALIGNMENT for a in addresses)
    table = _tables.of(addresses, first.device) if in_place else None
    source = first if table is not None else torch.cat([weight.detach() for weight in weights])
    results = _quantize(source, table, groups, spec, axes, draws)
    return [result.view(len(weights), *first.shape) for result in results]


class _Tables:
    """Weights' addresses on their device: parameters stay where they are, so a table is sent there once."""

    KEPT = 1024
    """Weights that move each step would make ever more of them."""

    def __init__(self) -> None:
        self.tables: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self.captured: list[Tensor] = []
        """A CUDA graph reads its table again at each replay."""

    def of(self, addresses: tuple[int, ...], device: torch.device) -> Tensor | None:
        """None while a CUDA graph is captured and there is no table: an upload cannot be part of the graph."""
        key = addresses, device
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if key not in self.tables:
            if capturing:
                return None
            if len(self.tables) == self.KEPT:
                self.tables.pop(next(iter(self.tables)))
            self.tables[key] = torch.tensor(addresses, dtype=torch.int64, device="cpu").to(device, non_blocking=True)
        if capturing:
            self.captured.append(self.tables[key])
        return self.tables[key]


_tables = _Tables()


def bytes_moved(x: Tensor, spec: FormatSpec, directions: int) -> int:
    """Bytes of device memory that quantize_rows of x, or quantize_stack for one weight x, has to read and write.

    One read and a write a direction; scales of tensors and rows read everything once more. Where the groups end is 8 bytes a group.
    """
    return (1 + (extent_of(spec) != NONE) + directions) * x.numel() * x.element_size()


def literal(spec: FormatSpec) -> str:
    return f"{spec.format}:" + ",".join(f"{key}={value}" for key, value in spec.options().items())


def words_of(draws: tuple[Draw | None, ...]) -> list[int]:
    """Seed (as int64), call and rank of each draw."""
    return [word for draw in draws if draw for word in (draw.seed - (draw.seed >> 63 << 64), draw.call, draw.rank)]


def draws_of(words: list[int], axes: list[int]) -> tuple[Draw | None, ...]:
    return tuple(Draw(*words[i : i + 3]) for i in range(0, len(words), 3)) or (None,) * len(axes)


@torch.library.custom_op(
    "quantctl::quantize_rows",
    mutates_args=(),
    schema="(Tensor x, Tensor ends, str spec, int[] axes, int[] words) -> Tensor[]",
)
def rows_operator(x: Tensor, ends: Tensor, spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    """quantize_rows as one node of a torch.compile graph."""
    return quantize_rows(x, Groups(x.shape[0], ends, None), parse(spec), tuple(axes), draws_of(words, axes))


@rows_operator.register_fake
def _(x: Tensor, ends: Tensor, spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    return [torch.empty_like(x) for _ in axes]


@uncaptured("quantctl::quantize_stack", "(Tensor[] weights, str spec, int[] axes, int[] words) -> Tensor[]")
def stack_operator(weights: list[Tensor], spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    """quantize_stack as one node of a torch.compile graph."""
    return quantize_stack(weights, parse(spec), tuple(axes), draws_of(words, axes))


@stack_operator.register_fake
def _(weights: list[Tensor], spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    return [weights[0].new_empty(len(weights), *weights[0].shape) for _ in axes]
