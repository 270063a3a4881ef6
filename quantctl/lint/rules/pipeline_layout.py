"""A pipeline layout with a letter that names no layer.

Severity: error

Why: the layout's reader asserts it before anything is built

Fix: use E (embedding), t (transformer layer), m (multi-token prediction) and L (loss), with | between stages

Releases: 0.14 and later

Evidence: core/transformer/pipeline_parallel_layer_layout.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

_KNOWN = frozenset("EtmL|,*() 0123456789")


def check(case: Case) -> Iterator[Hit]:
    flag = "--pipeline-model-parallel-layout"
    layout = case.text(flag) if case.arguments.last(flag) and flag in case.options and case.is_megatron else None
    if layout and (strange := sorted(set(layout) - _KNOWN)):
        yield Hit(f"{flag} {layout}: {', '.join(strange)} names no layer", (flag,))
