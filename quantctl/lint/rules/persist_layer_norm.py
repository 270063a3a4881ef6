"""Local layers without --no-persist-layer-norm.

Severity: error

Why: PyTorch's norm has no persistent kernel and asserts so

Fix: add --no-persist-layer-norm

Releases: all

Evidence: core/transformer/torch_norm.py, WrappedTorchNorm.__new__; run on 0.12.3, 0.16.1, 0.19.0
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules._layers import torch_norm


def check(case: Case) -> Iterator[Hit]:
    if case.has("--no-persist-layer-norm") is False and case.local and case.is_megatron:
        which = torch_norm(case)
        if which is not False:
            severity = None if which else Severity.WARNING
            unless = "" if which else ", unless Apex is installed"
            yield Hit(f"--no-persist-layer-norm is missing: PyTorch's norm stops at an assert{unless}",
                      ("--no-persist-layer-norm",), severity)  # fmt: skip
