"""Compile the kernels of fused attention to machine code, which needs no GPU, and print what is wrong with it.

A line a kernel: what was compiled, and `clean` or what was found: instructions that could round a format otherwise than
the reference (exp2 is approximate on purpose), products on Hopper that are not asynchronous or waited for one by one,
more shared memory than a program can have. Run by test_fused_pv.py in a process of its own, as Triton
decides on import whether it interprets.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton_source import source

from quantctl.kernels.triton import flash as triton_flash
from quantctl.kernels.triton.constants import NOTHING, quantizer
from quantctl.kernels.triton.flash_backward import keys_kernel, queries_kernel
from quantctl.kernels.triton.flash_forward import output_kernel, softmax_kernel
from quantctl.spec import parse

SUSPECTS = re.compile(r"\b(?:fma|mad)\.\w*\.?f32|\.ftz\b|\bdiv\.(?:full|approx)|\b(?:rcp|ex2|lg2|sqrt)\.\S+")
EXP2 = "ex2.approx.ftz.f32"
"""Within 2 ulp; a P below 2^-126 is 0."""
WAITS = "C7515"
"""ptxas: "wgmma.mma_async instructions are serialized"."""
SHARED_MEMORY = 227 * 1024
"""Of a program on compute capability 9.0 and 10.0."""

# kernel, spec, heads' width, values' width, compute capability
KERNELS = [
    (softmax_kernel, "none", 128, 128, 90),
    (output_kernel, "mxfp8", 128, 128, 90),
    (queries_kernel, "none", 128, 128, 90),
    (keys_kernel, "int8", 128, 128, 90),
    (keys_kernel, "hifp8:scale=tensor", 192, 128, 90),
    (output_kernel, "mxfp4:round=stochastic", 64, 64, 80),
]
POINTERS = {"max_ptr", "rcp_ptr", "row_term_ptr"}


def compiled(kernel: Any, text: str, d: int, d_v: int, capability: int) -> Any:
    spec = parse(text, "pv")
    tile = triton_flash.tile_for(torch.bfloat16, max(d, d_v), kernel in (queries_kernel, keys_kernel))
    constants = {
        **triton_flash.widths(d, d_v),
        **{"ROWS": tile.rows, "KEYS": tile.keys, "CAUSAL": True, "WHOLE_ROWS": True, "WHOLE_KEYS": True},
        **{"ONE_K": True, "ONE_Q": True, "PARTS": 1, "BITS": False, "OUT_BITS": False, "FOURS": True},
        "Q": NOTHING if spec.is_none else quantizer(spec, torch.bfloat16),
    }
    types: dict[str, Any] = {"factor": "fp32", "scale": "fp32"}
    divisible: dict[tuple[int, ...], Any] = {}
    multiple_of_16 = [["tt.divisibility", 16]]
    for i, name in enumerate(kernel.arg_names):
        if name.endswith("_ptr"):
            types[name] = "*i32" if name == "amax_ptr" else "*fp32" if name in POINTERS else "*bf16"
            divisible[(i,)] = multiple_of_16
        elif name.endswith("_strides"):
            types[name] = ("i32",) * (4 if name in ("d_k_strides", "d_v_strides") else 3)
            divisible |= {(i, j): multiple_of_16 for j in range(len(types[name]))}
    options = {"enable_fp_fusion": False, "num_warps": tile.warps, "num_stages": tile.stages}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source(kernel, types, constants, divisible), target=target, options=options)


def findings(kernel: Any, text: str, d: int, d_v: int, capability: int) -> list[str]:
    result = compiled(kernel, text, d, d_v, capability)
    ptx = result.asm["ptx"]
    found = set(SUSPECTS.findall(ptx.replace(EXP2, "")))
    if result.metadata.shared > SHARED_MEMORY:
        found.add(f"{result.metadata.shared} bytes of shared memory")
    if capability == 90:
        if "wgmma.mma_async" not in ptx:
            found.add("no wgmma")
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            ptxas = [
                knobs.nvidia.ptxas.path,
                "-v",
                "--gpu-name=sm_90a",
                file.name,
                "-o",
                Path(file.name).with_suffix(""),
            ]
            if WAITS in subprocess.run(ptxas, capture_output=True, text=True, check=True).stderr:
                found.add("products are waited for")
            Path(file.name).with_suffix("").unlink()
    return sorted(found)


if __name__ == "__main__":
    for kernel, *case in KERNELS:
        print(f"{kernel.fn.__name__} {' '.join(map(str, case))}: ", end="")
        print(", ".join(findings(kernel, *case)) or "clean", flush=True)
