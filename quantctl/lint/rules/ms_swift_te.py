"""Ms-swift 4.x with selectors.

Severity: error

Why: it builds Transformer Engine layers: selectors have no effect there

Fix: use ms-swift 3.x with MEGATRON_LM_PATH and --transformer_impl local

Releases: all

Evidence: reported, not run here: 3.x trains on a Megatron-LM clone, 4.x builds its own layers
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.program import SWIFT
from quantctl.lint.rule import Hit, Severity
from quantctl.outside.numbers import whole


def _swift_version(case: Case) -> str | None:
    if not case.setting.here:
        return None
    import importlib.metadata

    try:
        return importlib.metadata.version("ms-swift")
    except importlib.metadata.PackageNotFoundError:
        return None


def check(case: Case) -> Iterator[Hit]:
    if case.command.program != SWIFT:
        return
    version = _swift_version(case)
    if version and (whole(version.partition(".")[0]) or 0) >= 4 and case.quantized:
        yield Hit(
            f"ms-swift {version} builds Transformer Engine layers: the selectors are never executed",
            severity=Severity.ERROR,
        )
    elif version is None:
        yield Hit("ms-swift 4.x builds Transformer Engine layers, where no selector acts; 3.x takes the tree of "
                  "MEGATRON_LM_PATH and --transformer_impl local", severity=Severity.NOTE)  # fmt: skip
