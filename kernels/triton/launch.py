"""What the launchers share: tiles, and draws as 32-bit words."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from quantctl.kernels.formats.four_over_six import ERRORS
from quantctl.kernels.philox import Draw
from quantctl.kernels.strides import Matrices
from quantctl.kernels.triton.constants import Quantizer

ROLES = ("last", "first")
"""A result in blocks along a matrix's last axis, and along its first."""
ROWS, COLUMNS = 32, 128
"""Size of a tile: whole blocks of either direction, 8 KiB of bf16."""
_ELEMENTS = ROWS * COLUMNS
_A_WARP = 1024
"""Elements of a tile for each warp: 32 a thread, which its registers hold."""
_LARGEST = 16 * _A_WARP


def raw(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def signed(word: int) -> int:
    """A 32-bit word as the int32 with these bits, so that every draw has the kernel's one signature."""
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)


def draw_words(roles: tuple[str, ...], draws: tuple[Draw | None, ...]) -> dict[str, int]:
    """seed, rank, and for each role the calls of rounding and of random signs."""
    words = dict.fromkeys(("seed_low", "seed_high", "rank"), 0)
    words |= {f"{kind}_{part}_{role}": 0 for role in ROLES for kind in ("call", "signs") for part in ("low", "high")}
    for role, draw in zip(roles, draws, strict=True):
        if draw is not None:
            words |= {"seed_low": signed(draw.seed), "seed_high": signed(draw.seed >> 32), "rank": draw.rank}
            calls = {"call": draw.call, "signs": draw.call if draw.signs is None else draw.signs}
            for kind, call in calls.items():
                words |= {f"{kind}_low_{role}": signed(call), f"{kind}_high_{role}": signed(call >> 32)}
    return words


def sign_words(roles: tuple[str, ...], draws: tuple[Draw | None, ...]) -> dict[str, int]:
    """Those of draw_words that random signs need."""
    return {name: word for name, word in draw_words(roles, draws).items() if not name.startswith("call")}


class Tile(NamedTuple):
    rows: int
    columns: int

    @staticmethod
    def of(q: Quantizer, n: int, roles: tuple[str, ...], block: int = 0) -> Tile:
        """Whole blocks and transforms of the directions asked for, narrower for a narrow matrix of n columns.

        block: rows that it has to have in any case.
        """
        unit = max(q.BLOCK, q.HADAMARD)
        rows = max(ROWS, block, q.BLOCK if q.SQUARE else 0, unit if "first" in roles else 0)
        widest = max(COLUMNS // (2 if rows > ROWS else 1), unit)
        return Tile(rows, max(min(widest, triton.next_power_of_2(n)), unit, ROWS))

    @staticmethod
    def whole(q: Quantizer, launch: Matrices, role: str) -> Tile | None:
        """One that holds whole rows, where they are the blocks and are not too long.

        Rows with blocks of their own go through twice: the compiler takes minutes for so wide a tile of them.
        """
        if q.EXTENT != "row" or q.BLOCK:
            return None
        across, along = (launch.m, launch.n) if role == "last" else (launch.n, launch.m)
        length = max(triton.next_power_of_2(along.size), q.HADAMARD)
        # several rows of one axis lie side by side: 64 bytes of bf16 are read at once
        number = max(_ELEMENTS // length, 1 if role == "last" else ROWS)
        number = min(number, max(triton.next_power_of_2(across.size), 1 if role == "last" else ROWS))
        if length * number > _LARGEST:
            return None
        return Tile(number, max(length, 4)) if role == "last" else Tile(length, number)

    def programs(self, launch: Matrices) -> int:
        batch, m, n, _ = launch
        return batch.size * triton.cdiv(m.size, self.rows) * triton.cdiv(n.size, self.columns)

    def constants(self, q: Quantizer) -> dict[str, Any]:
        a_warp = _A_WARP // (2 if q.SCALE in ERRORS else 1)  # both candidates of a block, and their errors
        warps = min(max(self.rows * self.columns // a_warp, 4), 16)
        return {"ROWS": self.rows, "COLUMNS": self.columns, "num_warps": warps, "enable_fp_fusion": False}
