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

from quantctl.kernels import triton_qdq
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


if __name__ == "__main__":
    for kernel in KERNELS:
        found = sorted(set(SUSPECTS.findall(ptx(*kernel))))
        print(*kernel, " ".join(found) or "clean")
