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
from torch import Tensor

from quantctl.kernels.formats.tensor_scale import extent_of
from quantctl.kernels.operator import uncaptured
from quantctl.kernels.philox import Draw, draws_of, words_of
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.triton.constants import Quantizer, quantizer
from quantctl.kernels.triton.group_kernels import grouped_amax_kernel, grouped_qdq_kernel
from quantctl.kernels.triton.launch import ROLES, Tile, draw_words, raw, sign_words
from quantctl.spec import NONE, FormatSpec, parse

ALIGNMENT = 16
"""Bytes: a table's addresses are multiples, so that the compiler may load as many at once."""


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
        amax = group_amaxes(x, table, groups, tile, q, roles, draws)
        grouped_qdq_kernel[(programs(groups, n, tile),)](
            *(raw(x), groups.ends if table is None else table),
            *(raw(by_role.get(role, outs[0])) for role in ("last", "first")),
            *(groups.ends, groups.tile_ends(tile.rows), *(amax[role] for role in ROLES), len(groups), n, x.stride(0)),
            **draw_words(roles, draws),
            TABLE=table is not None,
            LAST="last" in by_role,
            FIRST="first" in by_role,
            Q=q.parameter,
            FOURS=n % 4 == 0,
            GROUPS=triton.next_power_of_2(len(groups)),
            **tile.constants(q),
        )
    return outs


def programs(groups: Groups, n: int, tile: Tile) -> int:
    return groups.tiles(tile.rows) * triton.cdiv(n, tile.columns)


def group_amaxes(
    x: Tensor,
    table: Tensor | None,
    groups: Groups,
    tile: Tile,
    q: Quantizer,
    roles: tuple[str, ...],
    draws: tuple[Draw | None, ...],
) -> dict[str, Tensor]:
    """By role, int32: the bits of the largest magnitude of each group [groups], or of each row: [rows], or [groups, n];
    anything where the format has none.

    x, table, draws: as in _quantize.
    """
    if q.EXTENT == NONE:
        return dict.fromkeys(ROLES, groups.ends)
    n = x.shape[1]
    if q.EXTENT == "tensor" and not q.HADAMARD:
        roles = roles[:1]  # both are one
    lengths = {"last": groups.rows, "first": len(groups) * n}
    sizes = [lengths[role] if q.EXTENT == "row" else len(groups) for role in roles]
    found = torch.zeros(sum(sizes), dtype=torch.int32, device=x.device).split(sizes)
    by_role = dict(zip(roles, found, strict=True))
    amax = {role: by_role.get(role, found[0]) for role in ROLES}
    grouped_amax_kernel[(programs(groups, n, tile),)](
        *(raw(x), groups.ends if table is None else table, *(amax[role] for role in ROLES)),
        *(groups.ends, groups.tile_ends(tile.rows), len(groups), n, x.stride(0)),
        **sign_words(roles, draws[: len(roles)]),
        TABLE=table is not None,
        LAST="last" in by_role,
        FIRST="first" in by_role,
        Q=q.parameter,
        GROUPS=triton.next_power_of_2(len(groups)),
        **tile.constants(q),
    )
    return amax


def quantize_rows(
    x: Tensor, groups: Groups, spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """Contiguous x [rows, n] along each of `axes`, read once; 0 is along the rows of each group.

    draws: for each axis, of one seed and rank, where the spec rounds stochastically or has random signs. Nothing here
    waits for the device.
    """
    if torch.compiler.is_compiling():
        return rows_operator(x, groups.ends, spec.text, list(axes), words_of(draws))
    return _quantize(x, None, groups, spec, axes, draws)


def quantize_stack(
    weights: Sequence[Tensor], spec: FormatSpec, axes: tuple[int, ...], draws: tuple[Draw | None, ...]
) -> list[Tensor]:
    """Weights [out, in] of equal shape and dtype as one [weights, out, in] along each of `axes`; each is read once."""
    if torch.compiler.is_compiling():
        return stack_operator(list(weights), spec.text, list(axes), words_of(draws))
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

    One read and a write a direction; scales of tensors and rows read everything once more. Where the groups end is 8
    bytes a group.
    """
    return (1 + (extent_of(spec) != NONE) + directions) * x.numel() * x.element_size()


@torch.library.custom_op(
    "quantctl::quantize_rows",
    mutates_args=(),
    schema="(Tensor x, Tensor ends, str spec, int[] axes, int[] words) -> Tensor[]",
)
def rows_operator(x: Tensor, ends: Tensor, spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    """quantize_rows as one node of a torch.compile graph."""
    return quantize_rows(x, Groups(x.shape[0], ends, None), parse(spec), tuple(axes), draws_of(words, len(axes)))


@rows_operator.register_fake
def _(x: Tensor, ends: Tensor, spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    return [torch.empty_like(x) for _ in axes]


@uncaptured("quantctl::quantize_stack", "(Tensor[] weights, str spec, int[] axes, int[] words) -> Tensor[]")
def stack_operator(weights: list[Tensor], spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    """quantize_stack as one node of a torch.compile graph."""
    return quantize_stack(weights, parse(spec), tuple(axes), draws_of(words, len(axes)))


@stack_operator.register_fake
def _(weights: list[Tensor], spec: str, axes: list[int], words: list[int]) -> list[Tensor]:
    return [weights[0].new_empty(len(weights), *weights[0].shape) for _ in axes]
