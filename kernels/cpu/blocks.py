"""What a family of formats says to the kernels, by `compiled.implements` for its own tuple of numbers `e`.

Amax and elements are fp32 magnitudes as int32 bits. `how` is a rule of rounding.py, `word` the element's noise.
chunks.py has `through` for small blocks, tiles.py for all else from `rows` and `columns`, which it has for blocks that
have one scale.
"""

from __future__ import annotations

from typing import Any


def block_of(e: Any) -> Any:
    """Elements of a block: a constant where there is one."""


def largest(words: Any, start: Any, size: Any, e: Any) -> Any:
    """The largest of the words of a whole block, of `size`, from words[start] on, without its sign."""


def is_plain(amax: Any, e: Any) -> Any:
    """Whether `prepare` and `quantize` serve a block of this amax, in which no operand of theirs is subnormal; those
    at the ends of the range are left to rest.py."""


def prepare(amax: Any, e: Any) -> Any:
    """Two fp32 numbers that `quantize` wants of a plain block."""


def quantize(bits: Any, first: Any, second: Any, e: Any, word: Any, how: Any) -> Any:
    """An element of a plain block through the format and back, as fp32 bits. Formats without blocks need no numbers."""


def stored(bits: Any, word: Any, e: Any) -> Any:
    """The word of a result with the fp32 magnitude `bits`, of the dtype and sign of `word`."""


def of_line(e: Any, line: Any) -> Any:
    """The numbers of one line along the quantized axis, where each has its own; e, where they are the tensor's."""


def rows(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    """A tile in blocks along n. Whether all of them are plain."""


def columns(x: Any, out: Any, e: Any, how: Any, key: Any, g: Any, tile: Any, words: Any, kept: Any) -> Any:
    """A tile in blocks along m, or in squares. Whether all of them are plain."""


def through(x: Any, last: Any, first: Any, e: Any, how: Any, keys: Any, g: Any, tile: Any, room: Any) -> Any:
    """A tile into `last`, in blocks along n, and `first`, along m or in squares, where they are not empty. Whether all
    of its blocks are plain.

    keys: of the noise of both. room: what the kernel keeps for words of noise, for what blocks have in common, and for
    a chunk of x.
    """
