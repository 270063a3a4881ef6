"""Sequences that sequence parallelism cannot share out.

Severity: error

Why: every rank takes the same part of the sequence; the first scatter asserts that it divides

Fix: make --seq-length a multiple of tensor x context parallelism

Releases: all

Evidence: core/tensor_parallel/mappings.py, _split_along_first_dim and _reduce_scatter_along_first_dim
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    if not case.sequence_parallel or not case.is_megatron:
        return
    tensor, sequence = case.size("--tensor-model-parallel-size"), case.size("--seq-length")
    context = case.size("--context-parallel-size") if "--context-parallel-size" in case.options else 1
    if tensor and context and sequence and sequence % (tensor * context):
        shares = f"{tensor} tensor-parallel ranks" + (f" x {context} context-parallel" if context > 1 else "")
        yield Hit(f"--seq-length {sequence} is no multiple of {shares}", ("--seq-length", "--sequence-parallel"))
