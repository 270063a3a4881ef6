"""Compile the kernels to machine code, which needs no GPU, and print what could round otherwise than the reference.

A line a kernel: what was compiled, and `clean` or the instructions found. Run by test_triton.py in a process of its
own, because Triton decides on import whether it interprets, and by tests/support/tritons.py with other Tritons.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton_source import VERSION, source

from quantctl.kernels.triton import amax as triton_amax
from quantctl.kernels.triton import constants as triton_constants
from quantctl.kernels.triton import group_kernels as triton_group_kernels
from quantctl.kernels.triton import grouped_packed as triton_grouped_packed
from quantctl.kernels.triton import pack_kernels as triton_pack_kernels
from quantctl.kernels.triton import packed as triton_packed
from quantctl.kernels.triton import qdq as triton_qdq
from quantctl.kernels.triton.launch import ROLES, Tile
from quantctl.spec import parse

# fused multiply-add, subnormals flushed, approximate division and functions
SUSPECTS = re.compile(r"\b(?:fma|mad)\.\w*\.?f32|\.ftz\b|\bdiv\.(?:full|approx)|\b(?:rcp|ex2|lg2|sqrt)\.\S+")

BOTH = {"LAST": True, "FIRST": True}
LAST = {"LAST": True, "FIRST": False}
FIRST = {"LAST": False, "FIRST": True}
WHOLE = {"WHOLE": True, "ROWS": 1, "COLUMNS": 8192}
ROWS, COLUMNS = {"AXIS": 0}, {"AXIS": 1}
UNPACKS = (triton_pack_kernels.unpack_kernel, triton_grouped_packed.grouped_unpack_kernel)

# kernel, spec, dtype, what is asked of it, compute capability
KERNELS = [
    (triton_qdq.qdq_kernel, "mxfp8", torch.bfloat16, BOTH, 90),
    (triton_qdq.qdq_kernel, "mxfp8", torch.float32, FIRST, 90),
    (triton_qdq.qdq_kernel, "mxfp6:round=away", torch.float16, LAST, 90),
    (triton_qdq.qdq_kernel, "hifp8", torch.bfloat16, LAST, 90),
    (triton_qdq.qdq_kernel, "hifp8:scale=tensor,round=stochastic", torch.bfloat16, LAST, 90),
    (triton_qdq.qdq_kernel, "nvfp4:round=stochastic", torch.bfloat16, BOTH, 80),
    (triton_qdq.qdq_kernel, "nvfp4:round=stochastic", torch.bfloat16, BOTH, 100),
    (triton_qdq.qdq_kernel, "fp8:block=1x128", torch.bfloat16, BOTH, 90),
    (triton_qdq.qdq_kernel, "nvfp4:scale=4over6", torch.bfloat16, FIRST, 90),
    (triton_qdq.qdq_kernel, "nvfp4:scale=4over6_mse,block=16x16", torch.bfloat16, LAST, 90),
    (triton_qdq.qdq_kernel, "int8", torch.bfloat16, LAST | WHOLE, 90),
    (triton_qdq.qdq_kernel, "hifp8:scale=fp32", torch.bfloat16, LAST, 90),
    (triton_qdq.qdq_kernel, "hifp4", torch.bfloat16, BOTH, 90),
    (triton_qdq.qdq_kernel, "mxfp4:hadamard=32,signs=random,round=stochastic", torch.bfloat16, BOTH, 90),
    (triton_amax.amax_kernel, "nvfp4:extent=row,hadamard=16,signs=fixed", torch.bfloat16, BOTH, 90),
    (triton_pack_kernels.pack_kernel, "mxfp8", torch.bfloat16, ROWS, 90),
    (triton_pack_kernels.pack_kernel, "nvfp4:round=stochastic", torch.bfloat16, COLUMNS, 90),
    (triton_pack_kernels.pack_kernel, "int8:hadamard=128,hadamard_out=fp32", torch.bfloat16, ROWS, 90),
    (triton_pack_kernels.pack_kernel, "hifp4", torch.bfloat16, ROWS, 90),
    (triton_pack_kernels.unpack_kernel, "fp8:block=128x128", torch.bfloat16, ROWS, 90),
    (triton_pack_kernels.unpack_kernel, "hifp4", torch.bfloat16, ROWS, 90),
    (triton_pack_kernels.unpack_kernel, "mxfp6", torch.bfloat16, COLUMNS, 90),
    (triton_pack_kernels.unpack_kernel, "nvfp4", torch.bfloat16, ROWS, 90),
    (
        triton_group_kernels.grouped_qdq_kernel,
        "mxfp4:round=stochastic,hadamard=16,signs=random",
        torch.bfloat16,
        BOTH,
        90,
    ),
    (triton_group_kernels.grouped_amax_kernel, "int8:block=row,hadamard=16", torch.bfloat16, BOTH, 90),
    (triton_grouped_packed.grouped_pack_kernel, "mxfp8", torch.bfloat16, ROWS, 90),
    (triton_grouped_packed.grouped_unpack_kernel, "nvfp4:extent=row", torch.bfloat16, ROWS, 90),
]


def source_of(kernel: Any, spec: str, dtype: torch.dtype, asked: dict[str, Any]) -> tuple[Any, int]:
    """What is compiled, and for how many warps."""
    q = triton_constants.quantizer(parse(spec), dtype)
    roles = tuple(role for role in ROLES if asked.get(role.upper()) or asked.get("AXIS") == ROLES.index(role) ^ 1)
    fixed = Tile.of(q, 4096, roles).constants(q) | {"Q": q.parameter, "WHOLE": False, "VALUES": True, "FOURS": True}
    fixed |= {"TABLE": True, "GROUPS": 8, **triton_packed.packing(parse(spec)), **asked}
    fixed |= {"x_n": 1, "out_n": 1, "index_n": 1}  # as Triton specializes a stride of 1
    types = dict.fromkeys(("x_ptr", "values_ptr", "last_ptr", "first_ptr"), triton_constants.POINTERS[dtype])
    if "amax" in kernel.fn.__name__:
        types |= dict.fromkeys(("last_ptr", "first_ptr"), "*i32")
    scales = {torch.float32: "*fp32", torch.int32: "*i32"}.get(
        triton_constants.SCALE_DTYPES.get(parse(spec).format, torch.uint8), "*u8"
    )
    types |= {"elements_ptr": "*u8", "scales_ptr": scales, "kept_ptr": "*fp32"}
    types |= dict.fromkeys(("ends_ptr", "tile_ends_ptr", "amax_last_ptr", "amax_first_ptr"), "*i32")
    # of codes, of values, or of addresses
    types["table_ptr"] = "*i16" if kernel in UNPACKS else "*i64" if "TABLE" in kernel.arg_names else "*u8"
    names, aligned = kernel.arg_names, ("x_m", "out_m", "x_row", "n_size", "row_bytes")
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in (*types, *aligned)}
    return source(kernel, types, fixed, divisible), fixed["num_warps"]


def ptx(kernel: Any, spec: str, dtype: torch.dtype, asked: dict[str, Any], capability: int) -> str:
    built, warps = source_of(kernel, spec, dtype, asked)
    options = {"enable_fp_fusion": False, "num_warps": warps}
    return triton.compile(built, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


if __name__ == "__main__":
    for kernel, spec, dtype, asked, capability in KERNELS:
        if capability == 100 and VERSION < (3, 3):
            continue  # it knows no such GPU
        try:
            said = " ".join(sorted(set(SUSPECTS.findall(ptx(kernel, spec, dtype, asked, capability))))) or "clean"
        except (triton.CompilationError, RuntimeError) as error:  # the others are compiled all the same
            while isinstance(error.__cause__, triton.CompilationError):
                error = error.__cause__
            said = f"not compiled, {str(error).splitlines()[-1]}"
        where = "".join(f" {name}={value}" for name, value in asked.items())
        print(f"{kernel.fn.__name__} {spec} {dtype}{where} {capability}: {said}", flush=True)
