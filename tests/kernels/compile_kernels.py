"""Compile the kernels to PTX, which needs no GPU, and print what in it could round otherwise than the reference.

A line a kernel: what was compiled, and `clean` or the instructions found. Run by test_triton.py in a process of its
own, because Triton decides on import whether it interprets.
"""

from __future__ import annotations

import re

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quantctl.kernels import triton_packed, triton_qdq
from quantctl.spec import parse

# fused multiply-add, subnormals flushed, approximate division and functions
SUSPECTS = re.compile(r"\b(?:fma|mad)\.\w*\.?f32|\.ftz\b|\bdiv\.(?:full|approx)|\b(?:rcp|ex2|lg2|sqrt)\.\S+")

# spec, dtype, LAST, FIRST, compute capability
KERNELS = [
    ("mxfp8", torch.bfloat16, True, True, 90),
    ("mxfp8", torch.float32, False, True, 90),
    ("mxfp6:round=away", torch.float16, True, False, 90),
    ("hifp8", torch.bfloat16, True, False, 90),
    ("hifp8:scale=tensor,round=stochastic", torch.bfloat16, True, False, 90),
    ("nvfp4:round=stochastic", torch.bfloat16, True, True, 80),
    ("nvfp4:round=stochastic", torch.bfloat16, True, True, 100),
]


# kernel, spec, axis
PACKING = [
    ("pack", "mxfp8", 0),
    ("pack", "nvfp4:round=stochastic", 1),
    ("pack", "hifp8:scale=tensor", 0),
    ("unpack", "mxfp6", 1),
    ("unpack", "nvfp4", 0),
    ("unpack", "hifp8:scale=tensor", 0),
]


def ptx(spec: str, dtype: torch.dtype, last: bool, first: bool, capability: int) -> str:
    constants = triton_qdq.constants(parse(spec), dtype) | {"LAST": last, "FIRST": first, "FOURS": True}
    constants |= {"ROWS": triton_qdq.ROWS, "COLUMNS": triton_qdq.COLUMNS}
    constants |= {"x_n": 1, "out_n": 1, "index_n": 1}  # as Triton specializes a stride of 1
    names = triton_qdq.qdq_kernel.arg_names
    types = {"x_ptr": triton_qdq.POINTERS[dtype], "encode_ptr": "*fp32", "decode_ptr": "*fp32"}
    types |= dict.fromkeys(("last_ptr", "first_ptr"), triton_qdq.POINTERS[dtype])
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    source = ASTSource(
        triton_qdq.qdq_kernel, signature, {(names.index(name),): value for name, value in constants.items()}
    )
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


def packing_ptx(name: str, spec: str, axis: int) -> str:
    kernel = {"pack": triton_packed.pack_kernel, "unpack": triton_packed.unpack_kernel}[name]
    names = kernel.arg_names
    parameters = triton_qdq.constants(parse(spec), torch.bfloat16) | triton_packed.packing(parse(spec))
    parameters |= {"AXIS": axis, "FOURS": True, "ROWS": triton_qdq.ROWS, "COLUMNS": triton_qdq.COLUMNS}
    constants = {key: value for key, value in parameters.items() if key in names}
    types = dict.fromkeys(("x_ptr", "values_ptr"), "*i16") | dict.fromkeys(("elements_ptr", "scales_ptr"), "*u8")
    types |= {"encode_ptr": "*fp32", "decode_ptr": "*fp32", "table_ptr": "*u8" if name == "pack" else "*i16"}
    signature = {key: "constexpr" if key in constants else types.get(key, "i32") for key in names}
    source = ASTSource(kernel, signature, {(names.index(key),): value for key, value in constants.items()})
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]


if __name__ == "__main__":
    for packing in PACKING:
        found = sorted(set(SUSPECTS.findall(packing_ptx(*packing))))
        print(*packing, " ".join(found) or "clean")
    for kernel in KERNELS:
        found = sorted(set(SUSPECTS.findall(ptx(*kernel))))
        print(*kernel, " ".join(found) or "clean")
