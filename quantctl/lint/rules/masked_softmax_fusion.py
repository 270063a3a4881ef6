"""Masked softmax fusion without its CUDA extension.

Severity: error

Why: ModuleNotFoundError in the first forward, with 17 to 4096 keys in half precision. An error where the command is
    about to run, a note for a script

Fix: add the flag; or install the package

Releases: all

Evidence: core/fusions/fused_softmax.py; run on an H200
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._fusions import needs

_MOST_FUSED_KEYS = 4096


def check(case: Case) -> Iterator[Hit]:
    flag, keys = "--no-masked-softmax-fusion", case.size("--seq-length")
    half = case.has("--bf16") or case.has("--fp16")
    if case.local and case.is_megatron and case.has(flag) is False and half and keys and 16 < keys <= _MOST_FUSED_KEYS:
        message = f"{flag} is missing: the fusion needs the extension scaled_upper_triang_masked_softmax_cuda"
        yield from needs(case, ("scaled_upper_triang_masked_softmax_cuda",), message, flag)
