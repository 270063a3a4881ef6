"""Flags that the release's own checks refuse together.

Severity: error

Why: validate_args, the parallel state's set-up or the configuration raises before the model is built

Fix: change the flags that the sentence names

Releases: all; of a tree without a trainer (megatron-core's wheels up to 0.16) what megatron.core itself checks

Evidence: the tree's own sources, read and not run; tests/support/start_checks.py compares with running them
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity
from quantctl.lint.rules import (
    attention_backend_local,
    batch_size,
    cuda_connections_fsdp,
    expert_parallel,
    flag_choice,
    flag_count,
    flag_later,
    flag_removed,
    flag_unknown,
    flag_value,
    gqa_with_mla,
    heads,
    overlap_param_gather,
    persist_layer_norm,
    pipeline_layers,
    save_interval,
    sequence_length,
    world_size,
)
from quantctl.lint.start.launch import stop

# they say the same of some checks, and say more
_MORE_EXACT = (
    *(flag_unknown, flag_removed, flag_later, flag_choice, flag_value, flag_count, world_size, batch_size, heads),
    *(sequence_length, cuda_connections_fsdp, attention_backend_local, gqa_with_mla, persist_layer_norm),
    *(expert_parallel, overlap_param_gather, pipeline_layers, save_interval),
)


def check(case: Case) -> Iterator[Hit]:
    found = stop(case)
    if found is None:
        return
    if any(hit.severity in (None, Severity.ERROR) for rule in _MORE_EXACT for hit in rule.check(case)):
        return
    sentence, where, line = found
    at = f", line {line}" if line else ""
    yield Hit(f"{case.setting.release} stops in {where}{at}: {sentence}")
