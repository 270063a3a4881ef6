"""The .idx file of Megatron's indexed dataset: where each document's tokens lie in the .bin file.

Layout (megatron/core/datasets/indexed_dataset.py, the same in all releases): the magic MMIDIDX and two zero bytes; u64
version 1; u8 code of the token dtype; u64 sequences; u64 document bounds; int32 tokens a sequence; int64 first byte of
each sequence; int64 document bounds. Here every document is one sequence.
"""

from __future__ import annotations

import struct
from typing import IO

import numpy
import numpy.typing

_MAGIC = b"MMIDIDX\x00\x00"
_CODES = {numpy.dtype(numpy.int32): 4, numpy.dtype(numpy.uint16): 8}


def write_index(file: IO[bytes], lengths: numpy.typing.NDArray[numpy.int32], dtype: numpy.typing.DTypeLike) -> None:
    """Write the index of documents with `lengths` [documents] tokens of `dtype` (uint16 or int32) each."""
    dtype = numpy.dtype(dtype)
    ends = numpy.cumsum(lengths, dtype=numpy.int64) * dtype.itemsize
    file.write(_MAGIC + struct.pack("<QB", 1, _CODES[dtype]))
    file.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
    file.write(numpy.ascontiguousarray(lengths, dtype="<i4").data)
    file.write(numpy.concatenate(([0], ends[:-1])).astype("<i8").data if len(lengths) else b"")
    file.write(numpy.arange(len(lengths) + 1, dtype="<i8").data)
