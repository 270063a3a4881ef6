"""Rows of a matrix in consecutive groups: the tokens of each expert, behind each other.

Nothing about a group's size is a shape: where the groups end is a tensor on the device, and everything made of it has
as many elements as the matrix's size and the number of groups allow at most. So nothing waits for the device, and the
same kernels run whatever the router decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.blocks import block_of
from quantctl.kernels.formats.hadamard import size_of
from quantctl.kernels.formats.mx import BLOCK
from quantctl.kernels.formats.quantize import FORMATS
from quantctl.spec import FormatSpec


def in_tiles(spec: FormatSpec, axis: int) -> bool:
    """Whether blocks along `axis` of rows in groups start anew at each group's first row."""
    across, along = block_of(spec, FORMATS[spec.format].block)
    return along > 0 and (axis == 0 or across > 1)


def tile_rows(spec: FormatSpec, axes: Sequence[int]) -> int:
    """Rows of the tiles of which each group starts one: whole blocks and transforms along any of `axes`."""
    along = block_of(spec, FORMATS[spec.format].block).along
    return max(BLOCK, along if any(in_tiles(spec, axis) for axis in axes) else 0, size_of(spec) if 0 in axes else 0)


def tiles(rows: int, groups: int, size: int) -> int:
    """So many tiles of `size` rows are enough for `rows` rows in `groups` groups that each start a tile."""
    # a group of n > 0 rows takes at most (n + size - 1) / size tiles
    return (rows + min(groups, rows) * (size - 1)) // size


def _owners(ends: Tensor, count: int) -> Tensor:
    """int64 [count]: the group of each of the first `count` numbers, where `ends` is one behind the last of each."""
    numbers = torch.arange(count, dtype=torch.int32, device=ends.device)
    # what lies behind the last group counts as its own, so that every index stays in range
    return torch.searchsorted(ends, numbers, right=True).clamp_max(len(ends) - 1)


@dataclass(frozen=True)
class Groups:
    """`rows` rows in groups."""

    rows: int
    ends: Tensor
    """int32 [groups]: one behind the last row of each, on the device of the rows."""
    counts: tuple[int, ...] | None
    """Rows of each, where the host knows them."""

    @staticmethod
    def of(counts: Sequence[int] | Tensor, rows: int, device: torch.device) -> Groups:
        """Groups of a matrix with `rows` rows on `device` from the number of rows of each.

        A list or a tensor on the CPU is checked and its ends are uploaded; a tensor on another device stays there,
        unread: it has to add up to `rows`. Raises QuantctlError if known counts do not.
        """
        if isinstance(counts, Tensor) and (counts.device.type != "cpu" or torch.compiler.is_compiling()):
            return Groups(rows, counts.cumsum(0, dtype=torch.int32), None)
        known = tuple(counts.tolist() if isinstance(counts, Tensor) else counts)
        if sum(known) != rows or min(known, default=0) < 0:
            raise QuantctlError(
                f"groups of {', '.join(map(str, known))} rows: {sum(known)} rows where the matrix has {rows}",
                "give the number of rows of each group, in the order in which the rows lie",
            )
        ends = torch.tensor(known, dtype=torch.int32, device="cpu").cumsum(0, dtype=torch.int32)
        return Groups(rows, ends.to(device, non_blocking=True), known)

    @staticmethod
    def equal(groups: int, size: int, device: torch.device) -> Groups:
        """`groups` groups of `size` rows each."""
        ends = torch.arange(1, groups + 1, dtype=torch.int32, device=device) * size
        return Groups(groups * size, ends, (size,) * groups)

    def filled(self, size: int) -> Groups:
        """These with rows behind each, up to a multiple of `size`; themselves where the host knows that there are none.

        Where only the device knows how many there are, the last has as many more as there can be.
        """
        if size == 1:
            return self
        if self.counts is None:
            rows, ends = self.tiles(size) * size, self.tile_ends(size)[:-1] * size
            return Groups(rows, torch.cat((ends, ends.new_full((1,), rows))), None)
        counts = tuple(-(-count // size) * size for count in self.counts)
        return self if counts == self.counts else Groups(sum(counts), self.tile_ends(size) * size, counts)

    def __len__(self) -> int:
        return self.ends.shape[0]

    def sizes(self) -> list[int]:
        """Rows of each group; waits for the device where only that knows them."""
        return list(self.counts) if self.counts is not None else (self.ends - self.starts()).tolist()

    def starts(self) -> Tensor:
        """int32 [groups]: the first row of each."""
        return torch.nn.functional.pad(self.ends, (1, -1))

    def tiles(self, size: int) -> int:
        """So many tiles of `size` rows are enough, whatever the groups, if each group starts a tile of its own."""
        return tiles(self.rows, len(self), size)

    def tile_ends(self, size: int) -> Tensor:
        """int32 [groups]: one behind the last tile of each if each group starts a tile of its own."""
        return ((self.ends - self.starts() + (size - 1)) // size).cumsum(0, dtype=torch.int32)

    def of_rows(self) -> Tensor:
        """int64 [rows]: the group of each row."""
        return _owners(self.ends, self.rows)

    def of_tiles(self, size: int) -> Tensor:
        """int64 [tiles]: the group of each tile if each group starts a tile of its own."""
        return _owners(self.tile_ends(size), self.tiles(size))

    def slots(self, size: int) -> Tensor:
        """int64 [rows]: the place of each row if each group starts a tile of `size` places of its own."""
        group = self.of_rows()
        first_tile = torch.nn.functional.pad(self.tile_ends(size), (1, -1))
        places = first_tile * size - self.starts()
        return torch.arange(self.rows, device=self.ends.device) + places.index_select(0, group)
