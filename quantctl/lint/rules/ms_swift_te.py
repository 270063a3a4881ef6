"""Ms-swift with selectors: which tree it imports.

Severity: warning

Why: 3.x trains on the tree of MEGATRON_LM_PATH, 4.x on the installed megatron-core: selectors elsewhere do nothing

Fix: train under quantctl exec, where both import the staged tree, whose layers obey the selectors

Releases: all

Evidence: read in ms-swift 3.12.6 (init_megatron_env, run under exec) and 4.6.0 with mcore-bridge 1.6.5
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
    if case.command.program != SWIFT or case.command.staged or not case.quantized:
        return
    version = _swift_version(case)
    if version is None:
        message = "ms-swift 3.x imports the tree of MEGATRON_LM_PATH, 4.x the megatron-core that is installed"
        yield Hit(message, severity=Severity.NOTE)
    elif (whole(version.partition(".")[0]) or 0) >= 4:
        yield Hit(f"ms-swift {version} imports the megatron-core that is installed, whatever MEGATRON_LM_PATH says")
